// SPDX-License-Identifier: Apache-2.0
//
// The early stage in front of the kernel's stack: refuses a packet for a VIP that falls in no admitted bucket before a buffer is made for it.
//
// It drops nothing that the nftables rules of ruleset.py ("early") would let through: what it is not sure of it passes to them. That is ARP and
// all else that is not IPv4, VLAN tags, other addresses, IP options, fragments (only the first has ports), ICMP errors (they hash by the router
// that sent them), and whatever is malformed or too short to be read.
//
// One program serves all VIPs of an interface. The layout of the maps is told in maps.py, which must agree with this file.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define VIPS 32
#define WORDS 16384 // of 64 buckets each: the most that a cluster can have

struct vip {
	__u32 seed;
	__u32 total_nodes;
	__u32 fields; // that are hashed where a protocol has ports: source address, source port, destination port
	__u32 slot;
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, VIPS);
	__type(key, __be32);
	__type(value, struct vip);
} vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VIPS * WORDS);
	__type(key, __u32);
	__type(value, __u64);
} admitted SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2 * VIPS); // of each slot what was passed, then what was dropped
	__type(key, __u32);
	__type(value, struct counter);
} counters SEC(".maps");

static __always_inline __u32 rotated(__u32 word, __u32 bits)
{
	return word << bits | word >> (32 - bits);
}

// The kernel's jhash (include/linux/jhash.h) over one to three 32-bit words; those left out are zero.
static __always_inline __u32 jhash(__u32 count, __u32 first, __u32 second, __u32 third, __u32 seed)
{
	__u32 start = 0xdeadbeef + 4 * count + seed;
	__u32 a = start + first, b = start + second, c = start + third;

	c ^= b; c -= rotated(b, 14);
	a ^= c; a -= rotated(c, 11);
	b ^= a; b -= rotated(a, 25);
	c ^= b; c -= rotated(b, 16);
	a ^= c; a -= rotated(c, 4);
	b ^= a; b -= rotated(a, 14);
	c ^= b; c -= rotated(b, 24);
	return c;
}

static __always_inline int is_error(__u8 type)
{
	return type == 3 || type == 5 || type == 11 || type == 12; // unreachable, redirect, time exceeded, parameter problem
}

// Whether the rules would refuse the packet for its bucket; no where they might not.
static __always_inline int is_foreign(const struct vip *vip, const struct iphdr *ip, const void *end)
{
	const __u8 *payload = (const void *)(ip + 1);
	__u32 fields = 1, source_port = 0, dest_port = 0, bucket, word;
	const __u64 *bits;

	if (ip->version != 4 || ip->ihl != 5 || (ip->frag_off & bpf_htons(0x3fff)))
		return 0;
	if (ip->protocol == IPPROTO_ICMP || ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP) {
		if (payload + 4 > (const __u8 *)end || bpf_ntohs(ip->tot_len) < sizeof(*ip) + 4)
			return 0;
		if (ip->protocol == IPPROTO_ICMP) {
			if (is_error(payload[0]))
				return 0;
		} else {
			// As nft loads them: each at the start of a zeroed register, in the packet's byte order.
			fields = vip->fields;
			if (fields > 1)
				source_port = *(const __be16 *)payload;
			if (fields > 2)
				dest_port = *(const __be16 *)(payload + 2);
		}
	}
	bucket = (__u64)jhash(fields, ip->saddr, source_port, dest_port, vip->seed) * vip->total_nodes >> 32;
	word = vip->slot * WORDS + (bucket >> 6);
	bits = bpf_map_lookup_elem(&admitted, &word);
	return bits && !(*bits >> (bucket & 63) & 1);
}

SEC("xdp")
int maglev0_early(struct xdp_md *context)
{
	const void *data = (const void *)(long)context->data, *end = (const void *)(long)context->data_end;
	const struct ethhdr *ethernet = data;
	const struct iphdr *ip = (const void *)(ethernet + 1);
	const struct vip *vip;
	struct counter *counter;
	__u32 counted;
	int foreign;

	if ((const void *)(ip + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	vip = bpf_map_lookup_elem(&vips, &ip->daddr);
	if (!vip)
		return XDP_PASS;
	foreign = is_foreign(vip, ip, end);
	counted = 2 * vip->slot + foreign;
	counter = bpf_map_lookup_elem(&counters, &counted);
	if (counter) {
		counter->packets++;
		counter->bytes += bpf_ntohs(ip->tot_len); // the frame's own length would take CAP_PERFMON to learn
	}
	return foreign ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "Apache-2.0";
