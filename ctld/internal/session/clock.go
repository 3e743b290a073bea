package session

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// boottimeMS is CLOCK_BOOTTIME in milliseconds: it never goes back, is not set by anybody, and goes on while the machine
// is suspended, as the nodes' does.
func boottimeMS() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err)) // every kernel since 2.6.39 has it
	}
	return ts.Sec*1000 + ts.Nsec/1_000_000
}
