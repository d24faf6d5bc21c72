package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
)

type vectors struct {
	Encode []struct {
		Name    string
		Tag     uint32
		Kind    byte
		Stream  uint32
		Payload []string
		Bytes   []string
	}
	Refuse []struct {
		Name   string
		Tag    uint32
		Bytes  []string
		Frames [][]any
		Rest   []string
	}
	Guest []struct {
		Name   string
		Bytes  []string
		Events [][]any
	}
}

func load(t *testing.T) (all vectors) {
	t.Helper()
	text, err := os.ReadFile("../../tests/vectors/wire.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func joined(t *testing.T, pieces []string) (all []byte) {
	t.Helper()
	for _, piece := range pieces {
		text, count, _ := strings.Cut(strings.ReplaceAll(piece, " ", ""), "*")
		raw, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		times := 1
		if count != "" {
			times, _ = strconv.Atoi(count)
		}
		all = append(all, bytes.Repeat(raw, times)...)
	}
	return all
}

func shown(frame Frame) []any {
	return []any{float64(frame.Kind), float64(frame.Stream), hex.EncodeToString(frame.Payload)}
}

func TestFramesHaveTheBytesOfTheVectors(t *testing.T) {
	for _, c := range load(t).Encode {
		if got := Append(nil, c.Kind, c.Stream, joined(t, c.Payload), c.Tag); !bytes.Equal(got, joined(t, c.Bytes)) {
			t.Errorf("%s: got %x", c.Name, got[:min(len(got), 60)])
		}
	}
}

func TestBrokenFramesAreRefused(t *testing.T) {
	for _, c := range load(t).Refuse {
		reader := NewReader(bytes.NewReader(joined(t, c.Bytes)))
		reader.tag = c.Tag
		got := [][]any{}
		frame, err := reader.Next()
		for ; err == nil; frame, err = reader.Next() {
			got = append(got, shown(frame))
		}
		if _, broken := err.(Broken); !broken || !reflect.DeepEqual(got, c.Frames) {
			t.Errorf("%s: %v, frames %v", c.Name, err, got)
		}
		if rest, _ := io.ReadAll(reader.in); !bytes.Equal(rest, joined(t, c.Rest)) {
			t.Errorf("%s: the hunt would go on at %x", c.Name, rest)
		}
	}
}

func listen(reader *Reader) (events [][]any) {
	for {
		greeting, err := reader.Hunt()
		if err != nil {
			return events
		}
		events = append(events, []any{"hello", float64(greeting.Epoch)})
		for {
			frame, err := reader.Next()
			if _, broken := err.(Broken); broken {
				events = append(events, []any{"broken"})
				break
			}
			if err != nil {
				return events
			}
			events = append(events, append([]any{"frame"}, shown(frame)...))
		}
	}
}

func TestTheGuestFindsTheNextConversation(t *testing.T) {
	for _, c := range load(t).Guest {
		data := joined(t, c.Bytes)
		for _, source := range []io.Reader{bytes.NewReader(data), iotest.OneByteReader(bytes.NewReader(data)), iotest.HalfReader(bytes.NewReader(data))} {
			if got := listen(NewReader(source)); !reflect.DeepEqual(got, c.Events) {
				t.Errorf("%s: got %v, want %v", c.Name, got, c.Events)
			}
		}
	}
}

func FuzzAnyBytesEndWithoutPanic(f *testing.F) {
	f.Add(append(append(make([]byte, 40), Marker...), Append(nil, Hello, 0, []byte(`{"epoch":7}`), 7)...))
	f.Fuzz(func(t *testing.T, data []byte) { listen(NewReader(bytes.NewReader(data))) })
}
