// Package port is the byte stream between agent and daemon: a virtio-serial port or a vsock listener in a machine, a Unix
// socket in tests.
//
// Idea: a Port yields one Conn after the other, for as long as there is somebody at the far end. What a Conn carries may
// hold several conversations (the far end of a serial port changes without a word); telling them apart is the wire's job.
// The caller owns what it gets and closes it.
package port

import "io"

// Port is where conversations come from.
type Port interface {
	// Next waits for somebody at the far end.
	Next() (Conn, error)
}

// Conn is one connection. Read gives io.EOF when the far end has gone. Writes come from one goroutine at a time.
type Conn interface {
	io.ReadWriteCloser
	// Interrupt makes the write under way, and all later ones, fail soon, until Resume.
	Interrupt()
	Resume()
}
