// SPDX-License-Identifier: Apache-2.0
//
// A packet generator inside the kernel: BPF_PROG_TEST_RUN with live frames runs it over copies of one frame, of which each gets a source address of its
// own and then goes the way of the program: into the stack as if the interface had received it, through the XDP program under test, or nowhere.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define SOURCES 16384

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SOURCES);
	__type(key, __u32);
	__type(value, __be32);
} sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} under_test SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} verdict SEC(".maps");

SEC("xdp")
int generator(struct xdp_md *context)
{
	void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	struct iphdr *ip = data + sizeof(struct ethhdr);
	__u32 place = bpf_get_prandom_u32() % SOURCES, first = 0, sum;
	const __be32 *source;
	const __u32 *then;

	if ((void *)(ip + 1) > end)
		return XDP_ABORTED;
	source = bpf_map_lookup_elem(&sources, &place);
	then = bpf_map_lookup_elem(&verdict, &first);
	if (!source || !then)
		return XDP_ABORTED;
	// The frame comes back from earlier rounds with another source: the checksum is mended by the difference (RFC 1624).
	sum = (__u16)~ip->check + (__u16)~ip->saddr + (__u16)~(ip->saddr >> 16) + (__u16)*source + (__u16)(*source >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~sum;
	ip->saddr = *source;
	bpf_tail_call(context, &under_test, 0); // falls through where there is none
	return *then;
}

char _license[] SEC("license") = "Apache-2.0";
