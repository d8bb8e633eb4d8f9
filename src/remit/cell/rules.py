"""What the network of a cell looks like: loopback only, every address routed to it, every packet accounted for.

Pure text for `ip -batch` and `nft -f`. These rules were attacked about a hundred times (IPv4 and IPv6); each line is
there because of one of those attempts, so a change wants a test in `tests/attacks`.
"""

from __future__ import annotations

TCP_PORT = 15001
DNS_PORT = 15053
ADDRESS4, ADDRESS6 = "10.201.0.2", "fd00:201::2"
RESOLVER = "10.201.0.53"
"""What a cell's resolv.conf names. Not loopback: the redirect of port 53 leaves loopback alone."""
MAX_CONNECTIONS = 4096

LINKS = f"""\
link set lo up
addr add {ADDRESS4}/32 dev lo
addr add {ADDRESS6}/128 dev lo nodad
route add default dev lo src {ADDRESS4}
route add ::/0 dev lo src {ADDRESS6} metric 10
"""

_OWN4, _OWN6 = f"{{127.0.0.0/8,{ADDRESS4}}}", f"{{::1,{ADDRESS6}}}"

RULES = f"""\
table inet cell {{
 chain nat_out {{ type nat hook output priority -100; policy accept;
  ip daddr {_OWN4} return
  ip6 daddr {_OWN6} return
  meta l4proto {{tcp,udp}} th dport 53 redirect to :{DNS_PORT}
  meta l4proto tcp redirect to :{TCP_PORT}
 }}
 chain out {{ type filter hook output priority filter; policy drop;
  ct state invalid drop
  meta l4proto != {{tcp,udp}} reject with icmpx admin-prohibited
  tcp dport {{{TCP_PORT},{DNS_PORT}}} ct status & dnat == 0 reject with tcp reset
  udp dport {DNS_PORT} ct status & dnat == 0 drop
  ct state new ct count over {MAX_CONNECTIONS} reject with icmpx admin-prohibited
  oifname "lo" ip daddr {_OWN4} accept
  oifname "lo" ip6 daddr {_OWN6} accept
  counter reject with icmpx admin-prohibited
 }}
 chain in {{ type filter hook input priority filter; policy drop; iifname "lo" accept; }}
 chain forw {{ type filter hook forward priority filter; policy drop; }}
}}
"""
