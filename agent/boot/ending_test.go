package boot

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOnlySystemdsLastStepIsTheEnd(t *testing.T) {
	for _, one := range []struct {
		arguments []string
		want      bool
	}{
		{[]string{"/shutdown", "poweroff", "--log-level", "6"}, true},
		{[]string{"/shutdown", "reboot"}, true},
		{[]string{"/shutdown"}, false},
		{[]string{"/init"}, false},
		{[]string{"/init", "shutdown"}, false},
		{nil, false},
	} {
		if got := IsEnding(one.arguments); got != one.want {
			t.Errorf("IsEnding(%q) = %v", one.arguments, got)
		}
	}
}

func TestACopyIsWholeAndCanBeExecuted(t *testing.T) {
	to := filepath.Join(t.TempDir(), "a", "shutdown")
	for range 2 {
		if err := copyProgram("/proc/self/exe", to); err != nil {
			t.Fatal(err)
		}
	}
	ours, _ := os.Stat("/proc/self/exe")
	theirs, err := os.Stat(to)
	if err != nil || theirs.Size() != ours.Size() || theirs.Mode().Perm()&0o100 == 0 {
		t.Errorf("the copy is %v, %v", theirs, err)
	}
}

func TestAnInitThatIsNotSystemdIsLeftNothing(t *testing.T) {
	_, before := os.Stat(lastPlace)
	if err := stayForTheEnd("/bin/sh"); err != nil {
		t.Error(err)
	}
	if _, after := os.Stat(lastPlace); (after == nil) != (before == nil) {
		t.Error("it was left something")
	}
}
