# The inside of rdma-vm.sh: brings the network and the adapters up and runs the command.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LEGO_VM_OUT=/run/lego-vm/out
stty -F /dev/ttyS1 raw
exec >/dev/ttyS1 2>&1 </dev/null

# Two hosts on one cable. Soft-RoCE of this kernel sends and receives in the first network namespace only, so both
# adapters are in it, and rules make it send what goes from one to the other over the cable rather than past it. The
# neighbours are written down: a first connection that has to ask for them takes up to half a minute.
cat >/run/lego-vm/cable <<'CABLE'
ip link set va up && ip link set vb up &&
  ip route replace 10.77.0.2 dev va src 10.77.0.1 table 77 &&
  ip route replace 10.77.0.1 dev vb src 10.77.0.2 table 78 &&
  ip neigh replace 10.77.0.2 lladdr $(cat /sys/class/net/vb/address) dev va nud permanent &&
  ip neigh replace 10.77.0.1 lladdr $(cat /sys/class/net/va/address) dev vb nud permanent
CABLE
ip link set lo up
ip link add va type veth peer name vb
for setting in accept_local=1 rp_filter=0 arp_ignore=1 arp_announce=2; do
  for where in all default va vb; do echo "${setting#*=}" >"/proc/sys/net/ipv4/conf/$where/${setting%=*}"; done
done
ip addr add 10.77.0.1/32 dev va
ip addr add 10.77.0.2/32 dev vb
sh /run/lego-vm/cable
ip rule add pref 100 lookup local
ip rule add pref 10 iif va lookup local
ip rule add pref 11 iif vb lookup local
ip rule add pref 12 from 10.77.0.1 to 10.77.0.1 lookup local
ip rule add pref 13 from 10.77.0.2 to 10.77.0.2 lookup local
ip rule add pref 20 from 10.77.0.1 to 10.77.0.2 lookup 77
ip rule add pref 21 from 10.77.0.2 to 10.77.0.1 lookup 78
ip rule del pref 0
rdma link add rxe0 type rxe netdev va
rdma link add rxe1 type rxe netdev vb

export LEGO_TEST_VERBS=10.77.0.1,10.77.0.2
export LEGO_TEST_VERBS_DOWN='ip link set va down' LEGO_TEST_VERBS_UP='sh /run/lego-vm/cable'
export LEGO_TEST_VERBS_REMOVE='rdma link delete rxe0' LEGO_TEST_VERBS_ADD='rdma link add rxe0 type rxe netdev va'
status=0
bash /run/lego-vm/command || status=$?
echo $status >$LEGO_VM_OUT/.status
sync
