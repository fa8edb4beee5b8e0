package session

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

func servicePort(name string) (uint16, error) {
	port, err := net.LookupPort("tcp", name)
	if err != nil {
		return 0, errors.New("there is no such service in /etc/services")
	}
	return uint16(port), nil
}

// patienceForNames is how long a name server has to answer.
const patienceForNames = 5 * time.Second

func hostAddrs(name string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patienceForNames)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, errors.New("there is no such host")
	}
	return addrs, nil
}
