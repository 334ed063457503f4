#!/usr/bin/env python3
"""A line with delay and loss between two TUN devices: what comes out of one goes into the other, late or never.
Arguments: device, device, delay in ms each way, loss in percent each way, Mbit/s each way, seed.
Not `tc netem`: kernels without sch_netem exist, and this one loses packets, not the 64 KiB bundles of a veth pair."""
import collections, fcntl, os, random, select, struct, sys, time

a, b, delay, loss, rate, seed = sys.argv[1:7]
delay, loss, rate = float(delay) / 1e3, float(loss) / 100, float(rate) * 1e6 / 8
chance = random.Random(int(seed)).random
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
QUEUE = 1000  # packets that wait for their turn, as netem's limit


def device(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return fd


fds = [device(a), device(b)]
other = {fds[0]: fds[1], fds[1]: fds[0]}
lines = {fd: collections.deque() for fd in fds}  # to fd: (when it arrives, packet)
free = dict.fromkeys(fds, 0.0)  # when the line to fd is free again
print("ready", flush=True)
while True:
    due = min((q[0][0] for q in lines.values() if q), default=None)
    wait = None if due is None else max(0.0, due - time.monotonic())
    ready, _, _ = select.select(fds, [], [], wait)
    now = time.monotonic()
    for fd in ready:
        to = other[fd]
        for _ in range(64):
            try:
                packet = os.read(fd, 65536)
            except (BlockingIOError, OSError):
                break
            if len(lines[to]) >= QUEUE or chance() < loss:
                continue
            free[to] = max(now, free[to]) + len(packet) / rate
            lines[to].append((free[to] + delay, packet))
    for fd, queue in lines.items():
        while queue and queue[0][0] <= now:
            try:
                os.write(fd, queue.popleft()[1])
            except OSError:
                pass
