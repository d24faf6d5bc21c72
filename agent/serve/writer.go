package serve

import (
	"sync"

	"banger/agent/port"
	"banger/agent/wire"
)

// chunk is what the serial driver takes in one write; frames of bulk data fill it exactly.
const (
	chunk    = 32768
	maxPiece = chunk - wire.HeaderSize - wire.TagSize
	maxQueue = 1024 // frames; a host that asks and asks and never reads has itself to wait
)

// writer sends the frames of one conversation in order, small ones joined. Frames that carry bulk data are lent to it and
// come back through home.
type writer struct {
	tag    uint32
	conn   port.Conn
	mu     sync.Mutex
	wake   sync.Cond
	queue  []outgoing
	busy   bool
	closed bool
	done   chan struct{}
}

type outgoing struct {
	frame []byte
	home  chan []byte
}

func newWriter(conn port.Conn, tag uint32, first []byte) *writer {
	w := &writer{tag: tag, conn: conn, done: make(chan struct{}), queue: []outgoing{{frame: first}}}
	w.wake.L = &w.mu
	go w.run()
	return w
}

// send queues a small frame.
func (w *writer) send(kind byte, stream uint32, payload []byte) {
	w.put(outgoing{frame: wire.Append(nil, kind, stream, payload, w.tag)})
}

// lend queues data that stands in buf behind room for a header; buf has the capacity for the tag.
func (w *writer) lend(kind byte, stream uint32, buf []byte, home chan []byte) {
	w.put(outgoing{wire.Seal(buf, 0, kind, stream, w.tag), home})
}

func (w *writer) put(one outgoing) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queue) >= maxQueue && !w.closed {
		w.wake.Wait()
	}
	if w.closed {
		one.giveBack()
		return
	}
	w.queue = append(w.queue, one)
	w.wake.Broadcast()
}

func (o outgoing) giveBack() {
	if o.home != nil {
		o.home <- o.frame
	}
}

// flush waits until everything queued so far has been handed to the transport.
func (w *writer) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.closed && (w.busy || len(w.queue) > 0) {
		w.wake.Wait()
	}
}

// close drops what has not gone yet and waits until the transport is free.
func (w *writer) close() {
	w.stop()
	w.conn.Interrupt()
	<-w.done
	w.conn.Resume()
}

func (w *writer) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for _, one := range w.queue {
		one.giveBack()
	}
	w.queue = nil
	w.wake.Broadcast()
}

func (w *writer) run() {
	defer close(w.done)
	joined := make([]byte, 0, chunk)
	for {
		batch := w.take()
		if batch == nil {
			return
		}
		joined = joined[:0]
		for _, one := range batch {
			joined = append(joined, one.frame...)
		}
		data := joined
		if len(batch) == 1 {
			data = batch[0].frame
		}
		_, err := w.conn.Write(data)
		for _, one := range batch {
			one.giveBack()
		}
		if err != nil {
			w.stop()
			return
		}
	}
}

// take waits for frames and returns as many as fit one write, or one that does not; nil when it is over.
func (w *writer) take() []outgoing {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy = false
	w.wake.Broadcast()
	for len(w.queue) == 0 && !w.closed {
		w.wake.Wait()
	}
	if w.closed {
		return nil
	}
	count, size := 1, len(w.queue[0].frame)
	for count < len(w.queue) && size+len(w.queue[count].frame) <= chunk {
		size += len(w.queue[count].frame)
		count++
	}
	batch := w.queue[:count:count]
	w.queue = w.queue[count:]
	w.busy = true
	return batch
}
