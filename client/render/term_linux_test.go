package render_test

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/client/render"
)

// terminal opens a pseudo-terminal of 90 by 30 cells.
func terminal(t *testing.T) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Skip(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Skip(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { slave.Close() })
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 30, Col: 90}); err != nil {
		t.Fatal(err)
	}
	return slave
}

func TestDetectTerminal(t *testing.T) {
	t.Parallel()
	f := terminal(t)
	for _, tc := range []struct {
		env  map[string]string
		want render.Terminal
	}{
		{map[string]string{"TERM": "xterm", "LANG": "de_DE.UTF-8"}, render.Terminal{TTY: true, Width: 90, Height: 30, Color: true, UTF8: true}},
		{map[string]string{"TERM": "xterm", "NO_COLOR": "1", "LC_CTYPE": "C.utf8"}, render.Terminal{TTY: true, Width: 90, Height: 30, UTF8: true}},
		{map[string]string{"TERM": "dumb", "LANG": "C"}, render.Terminal{TTY: true, Width: 90, Height: 30}},
	} {
		if got := render.DetectTerminal(f, func(name string) string { return tc.env[name] }); got != tc.want {
			t.Errorf("%v: got %+v, want %+v", tc.env, got, tc.want)
		}
	}
	if err := unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, &unix.Winsize{}); err != nil {
		t.Fatal(err)
	}
	if got := render.DetectTerminal(f, func(string) string { return "" }); got.Width != 80 {
		t.Errorf("a terminal that does not know its size is taken to be %d wide", got.Width)
	}
}
