package serve

import (
	"strings"
	"testing"

	"banger/agent/wire"
)

// long is a request in parts, of which the open has the last.
func (h *host) long(request string, size int) uint32 {
	h.t.Helper()
	h.last++
	for ; len(request) > size; request = request[size:] {
		h.frame(wire.Part, h.last, []byte(request[:size]))
	}
	h.frame(wire.Open, h.last, []byte(request))
	h.frame(wire.Credit, h.last, []byte{0, 64, 0, 0})
	return h.last
}

func TestARequestMayComeInParts(t *testing.T) {
	h := serving(t, ready())
	expect(t, number(h.hello(7).LongestRequest), "2097152")
	word := strings.Repeat("x", 100000)
	request := `{"op":"exec","argv":["sh","-c","echo $#", "sh"` + strings.Repeat(`,"`+word+`"`, 15) + `]}`
	expect(t, string(h.finish(h.long(request, 65536)).out), "15\n")
	request = `{"op":"exec","argv":["true","` + word + word + `"]}`
	if end := h.finish(h.long(request, 65536)).end; !strings.Contains(end, `"code":"bad-request"`) || !strings.Contains(end, "128 KiB") {
		t.Error(end)
	}
	expect(t, h.ask(`{"op":"ping"}`).end, `{"ok":{}}`)
}

func TestPartsThatAreNoneEndTheConversation(t *testing.T) {
	for name, break_ := range map[string]func(h *host){
		"another stream between": func(h *host) { h.frame(wire.Part, 1, []byte("{")); h.frame(wire.Open, 2, []byte(`{"op":"ping"}`)) },
		"another stream's parts": func(h *host) { h.frame(wire.Part, 1, []byte("{")); h.frame(wire.Part, 2, []byte("{")) },
		"another kind between":   func(h *host) { h.frame(wire.Part, 1, []byte("{")); h.frame(wire.Reset, 1, nil) },
		"an empty one":           func(h *host) { h.frame(wire.Part, 1, nil) },
		"a number that was":      func(h *host) { h.ask(`{"op":"ping"}`); h.frame(wire.Part, 1, []byte("{")) },
		"more than a request has": func(h *host) {
			for range 33 {
				h.frame(wire.Part, 1, make([]byte, 65536))
			}
		},
		"more with its open": func(h *host) {
			for range 32 {
				h.frame(wire.Part, 1, make([]byte, 65536))
			}
			h.frame(wire.Open, 1, []byte(" "))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := serving(t, ready())
			h.hello(7)
			break_(h)
			h.hello(8)
			expect(t, h.ask(`{"op":"ping"}`).end, `{"ok":{}}`)
		})
	}
}
