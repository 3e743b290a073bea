// Package userread reads files of jobs with the credentials of the jobs' users: in the daemon's own process for its own
// user, through a short-lived helper process for any other. The daemon never opens a path that a user can influence with
// rights that the user does not have.
package userread

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/fettle-hpc/fettle/noded/internal/logread"
)

// Identity is whom to read as.
type Identity struct {
	UID, GID uint32
	Groups   []uint32
}

// Reader reads as other users. ShimPath is the fettle-shim binary.
type Reader struct{ ShimPath string }

// helperPatience is how long a helper may take to end once it was told to.
const helperPatience = 5 * time.Second

// Read hands on the file's bytes in order until its end, or with Follow until ended is closed and all is read. It stops
// when ctx ends. sink must not keep the slice.
func (r Reader) Read(ctx context.Context, who Identity, req logread.Request, ended <-chan struct{}, sink func(offset int64, b []byte) error) error {
	if uid := os.Geteuid(); uid != 0 || who.UID == 0 {
		if uid != int(who.UID) {
			return fmt.Errorf("the node daemon runs as uid %d and cannot read as uid %d", uid, who.UID)
		}
		if err := logread.Read(req, ended, ctx.Done(), sink); err != nil {
			return plain(err)
		}
		return ctx.Err()
	}
	return r.helper(ctx, who, req, ended, sink)
}

// plain names the file and what was wrong, without the system call.
func plain(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return fmt.Errorf("%s: %w", pe.Path, pe.Err)
	}
	return err
}

func (r Reader) helper(ctx context.Context, who Identity, req logread.Request, ended <-chan struct{}, sink func(int64, []byte) error) error {
	bin, err := os.Open(r.ShimPath)
	if err != nil {
		return err
	}
	defer bin.Close()
	// Through the open file: the user need not be able to walk to where the binary lies.
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3", logread.Args(req)...)
	cmd.ExtraFiles = []*os.File{bin}
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.Dir = "/"
	cmd.WaitDelay = helperPatience
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: who.UID, Gid: who.GID, Groups: who.Groups}}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the log reader: %w", err)
	}
	told := make(chan struct{})
	over := make(chan struct{})
	go func() {
		defer close(told)
		select {
		case <-ended:
			// It reads what there is, and ends by itself.
			_, _ = in.Write([]byte{logread.ByteEnded})
		case <-over:
		}
		_ = in.Close()
	}()
	err = logread.ReadFrames(out, sink)
	close(over)
	<-told
	_ = out.Close() // a helper that is still writing ends
	werr := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	case werr != nil:
		return fmt.Errorf("log reader: %w", werr)
	}
	return nil
}
