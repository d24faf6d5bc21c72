package boot

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestAnImagesInitIsKnownByItsFiles(t *testing.T) {
	text, err := os.ReadFile("../../tests/vectors/inits.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		Cases []struct {
			Name  string
			Paths []string
			Init  string
		}
	}
	if err := json.Unmarshal(text, &vectors); err != nil || len(vectors.Cases) == 0 {
		t.Fatal(err)
	}
	for _, one := range vectors.Cases {
		if got := initOf(func(path string) bool { return slices.Contains(one.Paths, path) }); got != one.Init {
			t.Errorf("%s: %q instead of %q", one.Name, got, one.Init)
		}
	}
}

func TestAnInitGetsTheImagesVariablesOverTheUsual(t *testing.T) {
	found := strings.Join(first{Env: map[string]string{"PATH": "/app", "A": "b=c"}}.environment(), " ")
	if found != "A=b=c HOME=/ PATH=/app TERM=linux" {
		t.Error(found)
	}
}

func TestWhatTheDaemonDecidesIsNotLookedFor(t *testing.T) {
	if got := (first{Argv: []string{}}).decide(); len(got.Argv) != 0 {
		t.Error(got.Argv)
	}
	if got := (first{Argv: []string{"/init", "x"}}).decide(); len(got.Argv) != 2 {
		t.Error(got.Argv)
	}
}
