package serve

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestALockedAccountNeedsPAM(t *testing.T) {
	shadow := filepath.Join(t.TempDir(), "shadow")
	text := "root:*:19000::::::\nrooted:!:1::::::\nwren:!$6$x:1::::::\nowl:$6$x:1::::::\n"
	if err := os.WriteFile(shadow, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for user, expected := range map[string]bool{"root": false, "rooted": true, "wren": true, "owl": false, "nobody": false} {
		if locked(shadow, user) != expected {
			t.Error(user)
		}
	}
	if locked(shadow+".none", "root") {
		t.Error("without a file nobody is locked")
	}
}

func TestTheImagesEnvironmentIsQuotedOrLeftOut(t *testing.T) {
	found := setEnvironment([][2]string{{"LANG", "C.UTF-8"}, {"A", "x y#z"}, {"BAD", `a"b`}, {"WORSE", `a\`}})
	if !slices.Equal(found, []string{`SetEnv "LANG=C.UTF-8" "A=x y#z"`}) {
		t.Error(found)
	}
	if setEnvironment(nil) != nil {
		t.Error("an empty SetEnv is refused by sshd")
	}
}

func TestTheServerReadsNoConfigurationAndTakesKeysOnly(t *testing.T) {
	for _, user := range []string{"root", "wren"} {
		command := strings.Join(sshCommand("/usr/sbin/sshd", user), " ")
		for _, part := range []string{"/usr/sbin/sshd -i -f /dev/null ", " -o AuthenticationMethods=publickey", " -o PasswordAuthentication=no"} {
			if !strings.Contains(command, part) {
				t.Error(command)
			}
		}
	}
	if !slices.Contains(sshCommand("sshd", "wren"), "UsePAM=yes") {
		t.Error("a user without a password would count as locked")
	}
}

func TestAnAgentWithoutLeaveMakesNoKeysAndAnEntryIsOneLine(t *testing.T) {
	if _, err := doSSHKeys(ready(), nil, []byte(`{"op":"ssh-keys","machine_id":"x"}`)); err == nil {
		t.Error("made keys")
	}
	if err := welcome([]string{"one\ntwo"}); err == nil {
		t.Error("two lines")
	}
}

func TestAServerThatDoesNotStartIsAskedWhy(t *testing.T) {
	program := filepath.Join(t.TempDir(), "sshd")
	script := "#!/bin/sh\n[ \"$1 $2\" = '-t -f' ] && printf 'no \\377\\n hostkeys\\n' >&2\n"
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	if found := complaint(sshCommand(program, "wren")); found != "no ? hostkeys" {
		t.Errorf("%q", found)
	}
}
