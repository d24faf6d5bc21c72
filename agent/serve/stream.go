package serve

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"sync"

	"banger/agent/wire"
)

// stream is one request and what flows for it. The reader loop only ever appends to it; whatever can be slow runs in the
// stream's own goroutines, and credit bounds what waits here.
type stream struct {
	id      uint32
	out     *writer
	mu      sync.Mutex
	wake    sync.Cond
	credit  int    // what we may still send
	welcome int    // what the host may still send
	eaten   int    // consumed, not yet granted again
	inbox   []byte // received, not yet consumed
	inEnded bool   // the host's eof has come
	gone    bool   // given up by the host
	control func(controlRequest)
	abandon func() // stops what the request started; called once
}

func newStream(id uint32, out *writer) *stream {
	st := &stream{id: id, out: out}
	st.wake.L = &st.mu
	return st
}

// opened tells the host that data may flow, both ways.
func (st *stream) opened(answer any) {
	st.out.send(wire.Opened, st.id, encode(answer))
	st.mu.Lock()
	st.welcome = wire.Window
	st.mu.Unlock()
	st.out.send(wire.Credit, st.id, binary.BigEndian.AppendUint32(nil, wire.Window))
}

// give is one frame from the host; false means that the host broke the rules.
func (st *stream) give(frame wire.Frame) bool {
	switch frame.Kind {
	case wire.Data:
		return st.giveData(frame.Payload)
	case wire.Credit:
		return st.giveCredit(frame.Payload)
	case wire.EOF:
		st.mu.Lock()
		st.inEnded = true
		st.mu.Unlock()
		st.wake.Broadcast()
		return len(frame.Payload) == 0
	case wire.Control:
		return st.giveControl(frame.Payload)
	case wire.Reset:
		st.reset()
		return len(frame.Payload) == 0
	}
	return false
}

func (st *stream) giveData(data []byte) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(data) > st.welcome || st.inEnded && len(data) > 0 {
		return false
	}
	st.welcome -= len(data)
	if !st.gone {
		st.inbox = append(st.inbox, data...)
	}
	st.wake.Broadcast()
	return true
}

func (st *stream) giveCredit(payload []byte) bool {
	if len(payload) != 4 {
		return false
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.credit += int(binary.BigEndian.Uint32(payload))
	st.wake.Broadcast()
	return st.credit <= wire.MaxCredit
}

func (st *stream) giveControl(payload []byte) bool {
	var request controlRequest
	if json.Unmarshal(payload, &request) != nil {
		return false
	}
	st.mu.Lock()
	act := st.control
	st.mu.Unlock()
	if act != nil {
		act(request)
	}
	return true
}

// reset is the host giving up; what waits here wakes up and finds that it is gone.
func (st *stream) reset() {
	st.mu.Lock()
	act := st.abandon
	st.gone, st.abandon, st.inbox = true, nil, nil
	st.wake.Broadcast()
	st.mu.Unlock()
	if act != nil {
		act()
	}
}

// finish wakes whatever still waits for an ended stream.
func (st *stream) finish() {
	st.mu.Lock()
	st.gone, st.abandon, st.control, st.inbox = true, nil, nil, nil
	st.wake.Broadcast()
	st.mu.Unlock()
}

// onReset registers how to stop what was started; at once if the host has already given up.
func (st *stream) onReset(act func()) {
	st.mu.Lock()
	late := st.gone
	if !late {
		st.abandon = act
	}
	st.mu.Unlock()
	if late {
		act()
	}
}

func (st *stream) onControl(act func(controlRequest)) {
	st.mu.Lock()
	st.control = act
	st.mu.Unlock()
}

// receive moves what the host sends into sink until its eof or a reset, and grants what sink took. A sink that takes no
// more is replaced by nothing: the host's data must not pile up for a command that closed its stdin.
func (st *stream) receive(sink io.Writer) {
	var spare []byte
	for {
		data := st.fetch(spare)
		if data == nil {
			return
		}
		if sink != nil {
			if _, err := sink.Write(data); err != nil {
				sink = nil
			}
		}
		st.consumed(len(data))
		spare = data[:0]
	}
}

// fetch waits for data and takes all of it, leaving spare to be filled; nil at the end.
func (st *stream) fetch(spare []byte) []byte {
	st.mu.Lock()
	defer st.mu.Unlock()
	for len(st.inbox) == 0 && !st.inEnded && !st.gone {
		st.wake.Wait()
	}
	data := st.inbox
	st.inbox = spare
	if len(data) == 0 || st.gone {
		return nil
	}
	return data
}

func (st *stream) consumed(count int) {
	st.mu.Lock()
	st.eaten += count
	portion := 0
	if st.eaten*4 >= wire.Window {
		portion, st.eaten = st.eaten, 0
		st.welcome += portion
	}
	st.mu.Unlock()
	if portion > 0 {
		st.out.send(wire.Credit, st.id, binary.BigEndian.AppendUint32(nil, uint32(portion)))
	}
}

// spend waits for credit and takes at most most bytes of it; 0 means that nobody wants them any more.
func (st *stream) spend(most int) int {
	st.mu.Lock()
	defer st.mu.Unlock()
	for st.credit == 0 && !st.gone {
		st.wake.Wait()
	}
	if st.gone {
		return 0
	}
	count := min(most, st.credit)
	st.credit -= count
	return count
}

// pump sends what source gives as frames of that kind until it ends. After a reset it reads on into nothing, so that a
// process that is being stopped is not stuck in a write.
func (st *stream) pump(kind byte, source io.Reader) {
	home := make(chan []byte, 2)
	home <- make([]byte, chunk)
	home <- make([]byte, chunk)
	for {
		buf := <-home
		n, err := source.Read(buf[wire.HeaderSize : wire.HeaderSize+maxPiece])
		granted := 0
		if n > 0 {
			granted = st.spend(n)
		}
		if granted == n && n > 0 {
			st.out.lend(kind, st.id, buf[:wire.HeaderSize+n], home)
		} else {
			st.trickle(kind, buf[wire.HeaderSize:wire.HeaderSize+n], granted)
			home <- buf
		}
		if err != nil {
			return
		}
	}
}

// trickle sends a piece for which there was not enough credit at once.
func (st *stream) trickle(kind byte, piece []byte, granted int) {
	for granted > 0 {
		st.out.send(kind, st.id, piece[:granted])
		piece = piece[granted:]
		granted = 0
		if len(piece) > 0 {
			granted = st.spend(len(piece))
		}
	}
}

func (st *stream) eof() { st.out.send(wire.EOF, st.id, nil) }

func (st *stream) ok(answer any) {
	st.out.send(wire.End, st.id, encode(map[string]any{"ok": answer}))
}

func (st *stream) fail(err error) {
	code, message := failed, err.Error()
	if known, is := err.(*refusal); is {
		code = known.code
	}
	st.out.send(wire.End, st.id, encode(map[string]any{"error": map[string]string{"code": code, "message": message}}))
}

func encode(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil || len(text) > wire.MaxPayload {
		return []byte(`{"error":{"code":"failed","message":"the answer does not fit a frame"}}`)
	}
	return text
}
