package serve

import (
	"errors"
	"strings"
	"testing"
	"time"

	"banger/agent/wire"
)

func TestHowItIsWithTheCommandIsToldToWhoeverAsks(t *testing.T) {
	for _, one := range []struct {
		words        []string
		opened, ends string
	}{
		{[]string{"running 12", "exit 3"}, `{"pid":12}`, `{"ok":{"exit":3}}`},
		{[]string{"running 12", "signal KILL", "running 13", "exit 0"}, `{"pid":12}`, `{"ok":{"signal":"KILL"}}`},
		{[]string{"exit 0"}, "", `{"ok":{"exit":0}}`},
		{[]string{"none"}, "", `{"error":{"code":"not-found","message":"nothing was to be run"}}`},
		{[]string{"problem no such thing"}, "", `{"error":{"code":"no-command","message":"no such thing"}}`},
	} {
		machine := ready()
		h := serving(t, machine)
		h.hello(7)
		stream := h.open(`{"op":"command"}`, 1)
		for _, words := range one.words {
			machine.Command.Hear(words)
		}
		opened := ""
		for end := false; !end; {
			frame := h.next(stream)
			if end = frame.Kind == wire.End; end {
				expect(t, string(frame.Payload), one.ends)
			} else if frame.Kind == wire.Opened {
				opened = string(frame.Payload)
			}
		}
		if opened != "" || one.opened == "" { // one that was over at once need not be told as begun
			expect(t, opened, one.opened)
		}
		expect(t, h.ask(`{"op":"ping"}`).end, `{"ok":{}}`)
	}
}

func TestASignalForTheCommandIsPassedOn(t *testing.T) {
	machine := ready()
	passed := make(chan int, 8)
	machine.Command.Signal = func(number int) { passed <- number }
	machine.Command.Hear("running 12")
	h := serving(t, machine)
	h.hello(7)
	stream := h.open(`{"op":"command"}`, 1)
	for h.next(stream).Kind != wire.Opened {
	}
	for _, text := range []string{`"37"`, `"0"`, `"65"`, `"nonsense"`, `"SIGQUIT"`} {
		h.frame(wire.Control, stream, []byte(`{"signal":`+text+`}`))
	}
	for _, want := range []int{37, 3} {
		select {
		case got := <-passed:
			expect(t, number(got), number(want))
		case <-time.After(10 * time.Second):
			t.Fatal("no signal")
		}
	}
}

func TestAnErrorIsOneLineOfSoManyBytes(t *testing.T) {
	expect(t, Brief(errors.New("a\nb\x1bc")), "a b c")
	if long := Brief(errors.New(strings.Repeat("ä", 400))); len(long) > briefest+len("…") || !strings.HasSuffix(long, "ä…") {
		t.Error(long)
	}
}
