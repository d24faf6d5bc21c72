// Package serve answers the daemon: it turns what a Port delivers into conversations, streams and requests.
//
// Idea: one goroutine reads and never waits for anything slow; every stream has goroutines of its own, bounded by
// credit; one goroutine per conversation writes. When a conversation ends, whatever it started is stopped.
// Requests that need the root file system wait until Machine.Ready says that it is there.
package serve

import (
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"banger/agent/port"
	"banger/agent/wire"
)

const maxStreams = 256

// Machine is what the server needs to know of, and may do to, the system that it runs in. A nil function is refused.
type Machine struct {
	Version    string
	Identify   func(request []byte) (hostKeys []string, err error)
	HostKeys   func(machineID string) ([]string, error) // those of the image's sshd; made if there are none
	PowerOff   func()
	Quiet      func()      // ends every process but process 1 and this one
	HasInit    func() bool // whether process 1, while it is the agent, is to become the image's init
	Command    *Command    // what process 1 runs beside the agent
	Identified atomic.Bool

	once  sync.Once
	ready chan struct{}
	error atomic.Pointer[string]
}

// NewMachine has no root file system yet.
func NewMachine(version string) *Machine {
	return &Machine{Version: version, Command: newCommand(), ready: make(chan struct{})}
}

// Ready lets the requests go that wait for the root; problem says why there is none, or is empty.
func (m *Machine) Ready(problem string) {
	m.once.Do(func() {
		if problem != "" {
			m.error.Store(&problem)
		}
		close(m.ready)
	})
}

func (m *Machine) bootError() string {
	if text := m.error.Load(); text != nil {
		return *text
	}
	return ""
}

// Note puts a line on the console.
func Note(parts ...string) {
	_, _ = os.Stderr.WriteString("banger-agent: " + strings.Join(parts, "") + "\n")
}

// Forever serves until the port ends.
func Forever(from port.Port, machine *Machine) error {
	for {
		conn, err := from.Next()
		if err != nil {
			return err
		}
		connection(conn, machine)
		_ = conn.Close()
	}
}

// Disown ends the conversation of a server that died: its host waits for answers that nobody will give, and a serial port
// does not say so. No frame is made of zeros; a host that is only just connecting skips them.
func Disown(from port.Port) {
	conn, err := from.Next()
	if err == nil {
		_, _ = conn.Write(make([]byte, wire.HeaderSize+wire.MaxPayload+wire.TagSize))
	}
}

// connection serves conversation after conversation until nobody is at the far end.
func connection(conn port.Conn, machine *Machine) {
	reader := wire.NewReader(conn)
	for {
		greeting, err := reader.Hunt()
		if err != nil {
			return
		}
		talk := &session{machine: machine, streams: map[uint32]*stream{}}
		talk.out = newWriter(conn, greeting.Epoch, machine.greet(greeting.Epoch))
		if greeting.Wire != wire.Version {
			talk.out.flush()
			talk.out.close()
			continue
		}
		err = talk.listen(reader)
		talk.close()
		if _, broken := err.(wire.Broken); !broken {
			if err != io.EOF && err != io.ErrUnexpectedEOF {
				Note("connection lost: ", err.Error())
			}
			return
		}
		if err != wire.Cut {
			Note("conversation over: ", err.Error())
		}
	}
}

func (m *Machine) greet(epoch uint32) []byte {
	hello := wire.Greeting{Wire: wire.Version, Epoch: epoch, Version: m.Version, BootID: bootID(), Identified: m.Identified.Load(), BootError: m.bootError(),
		LongestRequest: wire.MaxRequest}
	first := append([]byte(nil), wire.Marker...)
	return wire.Append(first, wire.Hello, 0, encode(hello), epoch)
}

// session is one conversation: the streams between a hello and the next.
type session struct {
	machine *Machine
	out     *writer
	mu      sync.Mutex
	streams map[uint32]*stream
	last    uint32
	parts   []byte // of the request that the next open ends, and whose it is
	partsOf uint32
}

func (s *session) listen(reader *wire.Reader) error {
	for {
		frame, err := reader.Next()
		if err != nil {
			return err
		}
		if !s.dispatch(frame) {
			return wire.Broken("frame out of place on stream " + number(frame.Stream))
		}
	}
}

func (s *session) dispatch(frame wire.Frame) bool {
	if frame.Kind == wire.Part {
		return s.part(frame)
	}
	if len(s.parts) > 0 && (frame.Kind != wire.Open || frame.Stream != s.partsOf) {
		return false
	}
	if frame.Kind == wire.Open {
		return s.open(frame)
	}
	s.mu.Lock()
	st, last := s.streams[frame.Stream], s.last
	s.mu.Unlock()
	if st == nil {
		return frame.Stream <= last // ended before the host knew
	}
	return st.give(frame)
}

// part keeps a piece of a request; there is one such request at a time, and it has an end.
func (s *session) part(frame wire.Frame) bool {
	first := len(s.parts) == 0
	if first && frame.Stream <= s.last || !first && frame.Stream != s.partsOf {
		return false
	}
	if len(frame.Payload) == 0 || len(s.parts)+len(frame.Payload) > wire.MaxRequest {
		return false
	}
	s.parts, s.partsOf = append(s.parts, frame.Payload...), frame.Stream
	return true
}

func (s *session) open(frame wire.Frame) bool {
	request := append(s.parts, frame.Payload...)
	s.parts = nil
	if len(request) > wire.MaxRequest {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if frame.Stream <= s.last {
		return false
	}
	s.last = frame.Stream
	st := newStream(frame.Stream, s.out)
	if len(s.streams) >= maxStreams {
		st.fail(refuse(failed, "more than "+number(maxStreams)+" streams at once"))
		return true
	}
	s.streams[frame.Stream] = st
	go s.run(st, request)
	return true
}

// run answers one request; a fault in its handling is that request's own.
func (s *session) run(st *stream, request []byte) {
	defer func() {
		if fault := recover(); fault != nil {
			Note("fault in a request: ", describe(fault))
			st.fail(refuse(failed, "fault in the agent: "+describe(fault)))
		}
		st.finish()
		s.mu.Lock()
		delete(s.streams, st.id)
		s.mu.Unlock()
	}()
	handle(s.machine, st, request)
}

// close stops what the conversation started. Nothing of it is sent any more.
func (s *session) close() {
	s.out.close()
	s.mu.Lock()
	left := make([]*stream, 0, len(s.streams))
	for _, st := range s.streams {
		left = append(left, st)
	}
	s.mu.Unlock()
	for _, st := range left {
		st.reset()
	}
}

// hold waits for the root file system.
func (m *Machine) hold(st *stream) error {
	given := make(chan struct{})
	st.onReset(func() { close(given) })
	select {
	case <-m.ready:
	case <-given:
		return refuse(failed, "given up")
	}
	if problem := m.bootError(); problem != "" {
		return refuse(failed, problem)
	}
	return nil
}

// drained gives the transport a moment to take what is queued before the power goes.
func (st *stream) drained() {
	st.out.flush()
	time.Sleep(20 * time.Millisecond)
}
