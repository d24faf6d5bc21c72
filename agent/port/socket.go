package port

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

type listener struct{ net.Listener }

// Listen serves on a Unix socket, one connection after the other.
func Listen(path string) (Port, error) {
	found, err := net.Listen("unix", path)
	return listener{found}, err
}

func (l listener) Next() (Conn, error) {
	conn, err := l.Accept()
	if err != nil {
		return nil, err
	}
	return socket{conn}, nil
}

type socket struct{ net.Conn }

func (s socket) Interrupt() { _ = s.SetWriteDeadline(time.Unix(1, 0)) }
func (s socket) Resume()    { _ = s.SetWriteDeadline(time.Time{}) }

type once struct {
	sync.Mutex
	conn Conn
}

// Descriptor serves on one connected socket that was inherited, until it ends.
func Descriptor(fd uintptr) (Port, error) {
	file := os.NewFile(fd, "inherited")
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return &once{conn: socket{conn}}, file.Close()
}

func (o *once) Next() (Conn, error) {
	o.Lock()
	defer o.Unlock()
	conn := o.conn
	o.conn = nil
	if conn == nil {
		return nil, io.EOF
	}
	return conn, nil
}
