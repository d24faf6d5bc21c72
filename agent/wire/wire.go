// Package wire is the guest's side of the frames in docs/wire.md.
//
// Idea: a Reader turns whatever bytes arrive into conversations: Hunt finds the next preamble and its hello, Next gives
// whole frames until one is broken, then it is time to Hunt again. Going out, a frame is built in one buffer so that it
// can go out in one write. The package opens nothing and starts nothing; tests/vectors/wire.json holds it to the bytes.
package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
)

// Version is the major version of the wire; sides with different ones do not talk.
const Version = 1

// Limits and windows, in bytes.
const (
	MaxPayload = 65536
	MaxRequest = 2097152
	HeaderSize = 12
	TagSize    = 4
	Window     = 262144
	MaxCredit  = 1<<31 - 1
)

// The frame types.
const (
	Hello = 1 + iota
	Open
	Opened
	Data
	Stderr
	EOF
	Credit
	Control
	End
	Reset
	Part
)

// Marker ends a preamble.
var Marker = []byte("banger-wire\r\n\x1a\n\x00")

// Broken says why a conversation is over although the transport still delivers bytes.
type Broken string

func (b Broken) Error() string { return string(b) }

// Cut is the everyday case: the zeros of the next connection's preamble.
const Cut = Broken("a new connection begins")

// Frame is one whole frame; the payload is the receiver's to keep.
type Frame struct {
	Kind    byte
	Stream  uint32
	Payload []byte
}

// Greeting is a hello of either side; the guest fills the second half.
type Greeting struct {
	Wire       int    `json:"wire"`
	Epoch      uint32 `json:"epoch"`
	Version    string `json:"version"`
	BootID     string `json:"boot_id,omitempty"`
	Identified bool   `json:"identified"`
	BootError  string `json:"boot_error,omitempty"`
	// LongestRequest is in bytes; a guest that does not say takes what one frame holds.
	LongestRequest int `json:"longest_request,omitempty"`
}

// Append adds a frame to dst. A payload over the limit is a mistake of the caller.
func Append(dst []byte, kind byte, stream uint32, payload []byte, tag uint32) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, HeaderSize)...)
	dst = append(dst, payload...)
	return Seal(dst, start, kind, stream, tag)
}

// Seal completes a frame in place: buf[start:] is room for the header and then the payload; the tag is appended.
func Seal(buf []byte, start int, kind byte, stream uint32, tag uint32) []byte {
	size := len(buf) - start - HeaderSize
	if size > MaxPayload {
		panic("wire: payload over the limit")
	}
	binary.BigEndian.PutUint32(buf[start:], uint32(size))
	binary.BigEndian.PutUint32(buf[start+4:], stream)
	buf[start+8], buf[start+9], buf[start+10], buf[start+11] = kind, 0, 0, 0
	return binary.BigEndian.AppendUint32(buf, tag)
}

// Reader reads conversations from a transport.
type Reader struct {
	in  *bufio.Reader
	tag uint32
}

// NewReader starts before the first preamble.
func NewReader(in io.Reader) *Reader {
	return &Reader{in: bufio.NewReaderSize(in, 2*(HeaderSize+MaxPayload+TagSize))}
}

// Hunt drops bytes until a marker and a sound hello have passed; its epoch is the tag of what Next reads.
func (r *Reader) Hunt() (Greeting, error) {
	for {
		if err := r.skipPastMarker(); err != nil {
			return Greeting{}, err
		}
		found, err := r.greeting()
		if err == nil {
			r.tag = found.Epoch
			return found, nil
		}
		if _, ours := err.(Broken); !ours {
			return Greeting{}, err
		}
	}
}

func (r *Reader) skipPastMarker() error {
	for want := len(Marker); ; {
		if _, err := r.in.Peek(want); err != nil {
			return err
		}
		held, _ := r.in.Peek(r.in.Buffered())
		if at := bytes.Index(held, Marker); at >= 0 {
			_, err := r.in.Discard(at + len(Marker))
			return err
		}
		_, _ = r.in.Discard(len(held) - len(Marker) + 1)
	}
}

// greeting leaves what it looks at unread unless it is sound: the hunt may have to go through it.
func (r *Reader) greeting() (Greeting, error) {
	var found Greeting
	head, err := r.in.Peek(HeaderSize)
	if err != nil {
		return found, err
	}
	size, stream, kind, err := header(head)
	if err != nil {
		return found, err
	}
	if kind != Hello || stream != 0 {
		return found, Broken("no hello after the marker")
	}
	whole, err := r.in.Peek(HeaderSize + size + TagSize)
	if err != nil {
		return found, err
	}
	tag := binary.BigEndian.Uint32(whole[HeaderSize+size:])
	if json.Unmarshal(whole[HeaderSize:HeaderSize+size], &found) != nil || tag == 0 || found.Epoch != tag {
		return found, Broken("hello is not sound")
	}
	_, err = r.in.Discard(len(whole))
	return found, err
}

func header(head []byte) (size int, stream uint32, kind byte, err error) {
	length := binary.BigEndian.Uint32(head)
	stream, kind = binary.BigEndian.Uint32(head[4:]), head[8]
	switch {
	case length > MaxPayload:
		err = Broken("length over the limit")
	case kind == 0:
		err = Cut
	case kind > Part:
		err = Broken("unknown type")
	case head[9]|head[10]|head[11] != 0:
		err = Broken("padding is not zero")
	}
	return int(length), stream, kind, err
}

// Next returns the next whole frame. After a Broken, Hunt goes on where the page says.
func (r *Reader) Next() (Frame, error) {
	head, err := r.in.Peek(HeaderSize)
	if err != nil {
		return Frame{}, err
	}
	size, stream, kind, err := header(head)
	if err == nil && (kind == Hello || stream == 0) {
		err = Broken("frame out of place")
	}
	if err != nil {
		return Frame{}, err
	}
	body := make([]byte, size+TagSize)
	_, _ = r.in.Discard(HeaderSize)
	if _, err := io.ReadFull(r.in, body); err != nil {
		return Frame{}, err
	}
	switch binary.BigEndian.Uint32(body[size:]) {
	case r.tag:
		return Frame{kind, stream, body[:size:size]}, nil
	case 0:
		return Frame{}, Cut
	default:
		return Frame{}, Broken("tag is not this conversation's")
	}
}
