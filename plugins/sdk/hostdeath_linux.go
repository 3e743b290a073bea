package sdk

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// exitWithHost ends the process when the one that started it is gone. A host of this project has the kernel do it
// already; this holds for any other.
func exitWithHost() {
	parent := os.Getppid()
	fd, err := unix.PidfdOpen(parent, 0)
	if err != nil {
		go pollParent(parent)
		return
	}
	if os.Getppid() != parent {
		os.Exit(0)
	}
	go func() {
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				pollParent(parent)
			}
			if n > 0 {
				os.Exit(0)
			}
		}
	}()
}
