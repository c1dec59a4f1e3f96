"""The process on its host: waiting on asyncio, clock jumps, the watchdog, the log, child programs.

In and out: the operating system. This package must not know what the daemon serves.
"""
