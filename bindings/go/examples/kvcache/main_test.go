package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	infer "github.com/libinfer/libinfer/bindings/go"
)

// TestMain runs the example itself in the processes that TestASecondProcessFindsWhatTheFirstStored starts.
func TestMain(m *testing.M) {
	if directory := os.Getenv("KVCACHE_DIRECTORY"); directory != "" {
		if err := run(directory, os.Stdout); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestASecondProcessFindsWhatTheFirstStored(t *testing.T) {
	directory := t.TempDir() + "/cache"
	for _, want := range []string{
		"1000 tokens: 0 found, identical: true, 1000 computed\n",
		"1000 tokens: 992 found, identical: true, 8 computed\n",
	} {
		command := exec.Command(os.Args[0])
		command.Env = append(os.Environ(), "KVCACHE_DIRECTORY="+directory)
		out, err := command.CombinedOutput()
		if err != nil || string(out) != want {
			t.Fatalf("expected %q, found %q, %v", want, out, err)
		}
	}
}

func TestADirectoryThatCannotBeIsNamed(t *testing.T) {
	err := run("/dev/null/cache", io.Discard)
	if !errors.Is(err, infer.ErrInvalidArgument) || !strings.Contains(err.Error(), "/dev/null/cache") {
		t.Fatalf("expected ErrInvalidArgument, found %v", err)
	}
}
