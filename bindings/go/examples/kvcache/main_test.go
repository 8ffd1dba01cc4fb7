package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
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

func TestWithoutADirectoryEverythingIsComputed(t *testing.T) {
	var out strings.Builder
	// It is made again and again when the storage can be opened later: nothing fails for it.
	if err := run("/dev/null/cache", &out); err != nil || !strings.Contains(out.String(), " 0 found") {
		t.Fatalf("unexpected output %q, %v", out.String(), err)
	}
}
