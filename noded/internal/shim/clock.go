package shim

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// bootNow reads CLOCK_BOOTTIME in milliseconds. Unlike the monotonic clock of the Go runtime it goes on in suspend, which
// is what a lease must do.
func bootNow() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		// Every kernel that has pidfds has it; a machine without any clock can keep no lease.
		panic("clock_gettime: " + err.Error())
	}
	return ts.Sec*1000 + ts.Nsec/1_000_000
}

func wallNow() int64 { return time.Now().UnixMilli() }

// alarm is a timer on CLOCK_BOOTTIME. The zero value is not set and never rings.
type alarm struct {
	f    *os.File
	ring chan struct{}
	at   int64
}

// set makes the alarm ring at a CLOCK_BOOTTIME instant; 0 silences it.
func (a *alarm) set(atMS int64) error {
	if a.at == atMS {
		return nil
	}
	if a.f == nil {
		fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
		if err != nil {
			return os.NewSyscallError("timerfd_create", err)
		}
		a.f = os.NewFile(uintptr(fd), "timerfd")
		a.ring = make(chan struct{}, 1)
		go a.listen()
	}
	a.at = atMS
	var spec unix.ItimerSpec
	if atMS > 0 {
		spec.Value = unix.NsecToTimespec(atMS * 1_000_000)
	}
	return os.NewSyscallError("timerfd_settime", unix.TimerfdSettime(timerFD(a.f), unix.TFD_TIMER_ABSTIME, &spec, nil))
}

// close silences the alarm for good.
func (a *alarm) close() {
	if a.f != nil {
		_ = a.f.Close()
	}
}

// listen ends with close.
func (a *alarm) listen() {
	buf := make([]byte, 8)
	for {
		if _, err := a.f.Read(buf); err != nil {
			return
		}
		select {
		case a.ring <- struct{}{}:
		default:
		}
	}
}

// timerFD avoids File.Fd, which would make the descriptor block a thread.
func timerFD(f *os.File) (fd int) {
	rc, err := f.SyscallConn()
	if err != nil {
		return -1
	}
	if rc.Control(func(p uintptr) { fd = int(p) }) != nil {
		return -1
	}
	return fd
}
