package shim

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
	"github.com/fettle-hpc/fettle/noded/internal/killtree"
)

// userError marks a failure that lies with the job's own settings, not with the node.
type userError struct {
	what string
	err  error
}

func (e *userError) Error() string {
	if e.err == nil {
		return e.what
	}
	return e.what + ": " + e.err.Error()
}

func (e *userError) Unwrap() error { return e.err }

// nodeFaults are errors that a user's settings do not cause.
var nodeFaults = []error{unix.EIO, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EAGAIN}

// blame says whose fault an error about one of the user's paths is.
func blame(what string, err error) error {
	for _, f := range nodeFaults {
		if errors.Is(err, f) {
			return errors.New(what + ": " + err.Error())
		}
	}
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return &userError{what: what, err: err}
}

// launch starts the attempt's first process and returns its pid, and where its output begins.
//
// Everything that the process is to inherit (cgroup, mounts, credentials, working directory) is set up on one thread of
// the shim, which then forks and is thrown away. The shim's other threads keep their own; a second program that would
// do the same between fork and exec would double the cost of a start.
func launch(o *handoff.Order) (pid int, outputs handoff.Outputs, err error) {
	if harmless(o) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		return launchOnThread(o)
	}
	tid := throwAway(func() { pid, outputs, err = launchOnThread(o) })
	if err == nil && o.SwitchUser && o.UID != 0 {
		awaitThreadEnd(tid)
	}
	return pid, outputs, err
}

// throwAway runs f on a thread that is never used again, and names the thread.
func throwAway(f func()) (tid int) {
	done := make(chan int)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The process's first thread cannot be thrown away. Held here, it is not the next one's either.
			done <- throwAway(f)
			runtime.UnlockOSThread()
			return
		}
		f()
		done <- unix.Gettid()
		// Never unlocked: the thread ends with the goroutine.
	}()
	return <-done
}

// awaitThreadEnd waits until the thread that became the job's user is gone: while it lives that user may signal it, and
// with it the shim, which may own another's attempt later.
func awaitThreadEnd(tid int) {
	path := "/proc/self/task/" + strconv.Itoa(tid)
	for range 1_000 {
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil {
			return
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// harmless says whether the thread that the shim goes on with may be the one: it gives up no right that the shim needs,
// and joins no group that the shim will end.
func harmless(o *handoff.Order) bool {
	return len(o.Cgroup.V1Dirs) == 0 && len(o.HideDevices) == 0 && (!o.SwitchUser || o.UID == 0)
}

func launchOnThread(o *handoff.Order) (pid int, outputs handoff.Outputs, err error) {
	flags := unix.CLONE_FS
	if len(o.HideDevices) > 0 {
		flags = unix.CLONE_NEWNS
	}
	if err := unix.Unshare(flags); err != nil {
		return 0, outputs, os.NewSyscallError("unshare", err)
	}
	for _, g := range o.Cgroup.V1Dirs {
		if err := killtree.WriteFile(g+"/tasks", "0"); err != nil {
			return 0, outputs, errors.New("join the attempt's cgroup: " + err.Error())
		}
	}
	sys := &syscall.SysProcAttr{Setsid: true}
	if o.Cgroup.V2Dir != "" {
		fd, err := unix.Open(o.Cgroup.V2Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, outputs, errors.New("open the attempt's cgroup " + o.Cgroup.V2Dir + ": " + err.Error())
		}
		defer unix.Close(fd)
		sys.UseCgroupFD, sys.CgroupFD = true, fd
	}
	if err := hideDevices(o); err != nil {
		return 0, outputs, err
	}
	if err := setLimits(); err != nil {
		return 0, outputs, err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, outputs, os.NewSyscallError("prctl(PR_SET_NO_NEW_PRIVS)", err)
	}
	if err := becomeUser(o, sys.UseCgroupFD); err != nil {
		return 0, outputs, err
	}
	unix.Umask(0o022)
	return asUser(o, sys)
}

// asUser does everything that touches paths which the job's user can influence, with that user's credentials.
func asUser(o *handoff.Order, sys *syscall.SysProcAttr) (pid int, outputs handoff.Outputs, err error) {
	if err := writeFiles(o.FilesDir, o); err != nil {
		return 0, outputs, err
	}
	std, err := openStdio(o)
	if err != nil {
		return 0, outputs, err
	}
	defer std.close()
	if err := unix.Chdir(o.Dir); err != nil {
		return 0, outputs, blame("work_dir "+o.Dir, err)
	}
	argv, what, err := program(o)
	if err != nil {
		return 0, outputs, err
	}
	if o.Preamble != "" {
		if _, err := unix.Write(int(std.fds[1]), []byte(o.Preamble)); err != nil {
			return 0, outputs, blame("stdout "+o.Stdout, err)
		}
	}
	if sys.UseCgroupFD && o.SwitchUser && o.UID != 0 {
		// The kernel asks the forking thread for write access to the group. The capability does not survive exec: the
		// user is not root, and neither the inheritable nor the ambient set has anything in it.
		if err := setCaps(capDacOverride, capDacOverride); err != nil {
			return 0, outputs, err
		}
	}
	pid, err = syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{Env: o.Env, Files: std.fds[:], Sys: sys})
	if err != nil {
		return 0, outputs, blame(what, err)
	}
	// The shim's own thread, where it was that, does not keep the user's file system busy.
	_ = unix.Chdir("/")
	return pid, std.starts, nil
}

// hideDevices covers device files in a mount namespace of the job's own. A job without privileges cannot uncover them.
func hideDevices(o *handoff.Order) error {
	if len(o.HideDevices) == 0 {
		return nil
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return os.NewSyscallError("mount namespace", err)
	}
	for _, d := range o.HideDevices {
		if err := unix.Mount(o.DenyPath, d, "", unix.MS_BIND, ""); err != nil && !errors.Is(err, unix.ENOENT) {
			return errors.New("hide " + d + ": " + err.Error())
		}
	}
	return nil
}

// setLimits sets what a job's processes start with. The limits are the whole shim's, which has no use for more.
func setLimits() error {
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil {
		return os.NewSyscallError("getrlimit(CORE)", err)
	}
	core.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &core); err != nil {
		return os.NewSyscallError("setrlimit(CORE)", err)
	}
	if unix.Geteuid() != 0 {
		return nil
	}
	// Memory registered for RDMA is locked memory. A container may withhold the right; a job without RDMA runs all the same.
	inf := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &inf); err != nil && !errors.Is(err, unix.EPERM) {
		return os.NewSyscallError("setrlimit(MEMLOCK)", err)
	}
	return nil
}
