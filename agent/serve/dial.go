package serve

import (
	"context"
	"net"
	"time"

	"banger/agent/wire"
)

const dialLimit = 10 * time.Second

// doDial joins a stream to a TCP server that the guest can reach; each direction ends by itself.
func doDial(st *stream, text []byte) (any, error) {
	request := dialRequest{Host: "127.0.0.1"}
	if err := Parse(text, &request); err != nil {
		return nil, err
	}
	if request.Port < 1 || request.Port > 65535 || request.Host == "" {
		return nil, refuse(badRequest, "dial needs a host and a port from 1 to 65535")
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialLimit)
	defer cancel()
	st.onReset(cancel)
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(request.Host, number(request.Port)))
	if err != nil {
		return nil, refuse(refused, err.Error())
	}
	peer := conn.(*net.TCPConn)
	defer peer.Close()
	st.onReset(func() { _ = peer.SetLinger(0); _ = peer.Close() })
	st.opened(struct{}{})
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		st.receive(peer)
		_ = peer.CloseWrite()
	}()
	st.pump(wire.Data, peer)
	st.eof()
	<-sent
	return struct{}{}, nil
}
