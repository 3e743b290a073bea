package attempt

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/account"
	"github.com/fettle-hpc/fettle/noded/internal/gpufence"
	"github.com/fettle-hpc/fettle/noded/internal/logread"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

const adaUID, adaGID, mlGID = 61_001, 61_002, 61_003

// asAda gives the rig a user who exists only in its own passwd file.
func asAda(t *testing.T) option {
	if os.Getuid() != 0 {
		t.Skip("running jobs as another user needs root")
	}
	dir := t.TempDir()
	cfg := account.Config{Passwd: filepath.Join(dir, "passwd"), Group: filepath.Join(dir, "group")}
	for p, s := range map[string]string{
		cfg.Passwd: fmt.Sprintf("ada:x:%d:%d::/tmp:/bin/sh\n", adaUID, adaGID),
		cfg.Group:  fmt.Sprintf("ada:x:%d:\nml:x:%d:ada\n", adaGID, mlGID),
	} {
		if err := os.WriteFile(p, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return func(c *Config) { c.Users = account.New(cfg) }
}

func (r *rig) ada(id uint64, script string) nodemachine.StartShim {
	s := r.job(id, script)
	s.Prepare.User, s.Prepare.Uid, s.Prepare.Gid = "ada", adaUID, adaGID
	return s
}

func TestJobRunsAsItsUser(t *testing.T) {
	t.Parallel()
	eachIsolation(t, func(t *testing.T, opts ...option) {
		r := newRig(t, append(opts, asAda(t))...)
		s := r.ada(1, sh(`cat /proc/self/status | grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs)'
echo HOME=$HOME USER=$USER
touch $FETTLE_ATTEMPT_DIR/mine && echo wrote
A=$FETTLE_ATTEMPT_DIR/../../attempts/$FETTLE_JOB_ID.$FETTLE_ATTEMPT.$FETTLE_FENCE
ls $FETTLE_ATTEMPT_DIR/.. 2>&1; cat $A 2>&1; rm -rf $A 2>&1; (echo x >>$A) 2>&1
kill -9 $PPID 2>&1`))
		e := r.run(s)
		out := r.read("out")
		for _, want := range []string{
			fmt.Sprintf("Uid:\t%d\t%d\t%d\t%d\n", adaUID, adaUID, adaUID, adaUID),
			fmt.Sprintf("Gid:\t%d\t%d\t%d\t%d\n", adaGID, adaGID, adaGID, adaGID),
			fmt.Sprintf("Groups:\t%d %d", adaGID, mlGID),
			"CapInh:\t0000000000000000\n", "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n", "CapAmb:\t0000000000000000\n",
			"NoNewPrivs:\t1\n", "HOME=/tmp USER=ada\n", "wrote\n",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q", want)
			}
		}
		if n := strings.Count(out, "ermission denied"); n < 4 {
			t.Errorf("the daemon's files are open to the job")
		}
		if e.GetShimLost() {
			t.Error("the job ended its shim")
		}
		if t.Failed() {
			t.Log(out)
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(r.work, "out"), &st); err != nil || st.Uid != adaUID || st.Gid != adaGID {
			t.Errorf("output of %d:%d, %v", st.Uid, st.Gid, err)
		}
	})
}

func TestPathsAreOpenedWithTheUsersRights(t *testing.T) {
	t.Parallel()
	r := newRig(t, asAda(t))
	secret := filepath.Join(r.dir, "secret")
	if err := os.Mkdir(secret, 0o700); err != nil {
		t.Fatal(err)
	}
	private := filepath.Join(r.work, "private")
	if err := os.WriteFile(private, []byte("root's\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, change := range []func(*fettlev1.JobSpec){
		func(s *fettlev1.JobSpec) { s.StdoutPath = private },
		func(s *fettlev1.JobSpec) { s.StdoutPath, s.TruncateOutput = private, true },
		func(s *fettlev1.JobSpec) { s.StderrPath = filepath.Join(secret, "new") },
		func(s *fettlev1.JobSpec) { s.StdoutPath, s.WorkDir = filepath.Join(r.work, "o"), secret },
		func(s *fettlev1.JobSpec) { s.StdoutPath = "/etc/fettle-test-output" },
	} {
		s := r.ada(uint64(i+1), sh("echo evil"))
		change(s.Prepare.Spec)
		r.m.Start(s)
		if e := r.failed(s.Key); !e.GetUserError() || !strings.Contains(e.GetDetail(), "permission denied") {
			t.Errorf("%d: %v", i, e)
		}
	}
	if got := r.read("private"); got != "root's\n" {
		t.Errorf("%q", got)
	}
	if e, err := os.ReadDir(secret); err != nil || len(e) != 0 {
		t.Errorf("%v, %v", e, err)
	}
}

func TestOutputIsReadWithTheUsersRights(t *testing.T) {
	t.Parallel()
	r := newRig(t, asAda(t))
	s := r.ada(1, sh("echo hello; while ! [ -e go ]; do sleep 0.01; done; echo bye"))
	r.m.Start(s)
	r.started(s.Key)
	path, who, ended, ok := r.m.Output(s.Key, false)
	if !ok || who.UID != adaUID {
		t.Fatalf("%q %+v %v", path, who, ok)
	}
	var got []byte
	err := r.m.reader.Read(t.Context(), who, logread.Request{Path: path, Follow: true}, ended, func(off int64, b []byte) error {
		if off != int64(len(got)) {
			t.Errorf("offset %d after %d bytes", off, len(got))
		}
		got = append(got, b...)
		return os.WriteFile(filepath.Join(r.work, "go"), nil, 0o644)
	})
	if err != nil || string(got) != "hello\nbye\n" {
		t.Errorf("%q, %v", got, err)
	}
	r.ended(s.Key)
	// The user puts a link to somebody else's file in the log's place.
	private := filepath.Join(r.dir, "private")
	if err := os.WriteFile(private, []byte("root's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{private, "/dev/zero", "/proc/1/environ"} {
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		n := 0
		err = r.m.reader.Read(t.Context(), who, logread.Request{Path: path}, nil, func(_ int64, b []byte) error { n += len(b); return nil })
		if err == nil || n > 0 {
			t.Errorf("%s: %d bytes, %v", target, n, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUsersThatDoNotRunHere(t *testing.T) {
	t.Parallel()
	r := newRig(t, asAda(t), func(c *Config) { c.NoRoot = true })
	for name, change := range map[string]func(*fettlev1.Prepare){
		"root":         func(p *fettlev1.Prepare) { p.User, p.Uid = "root", 0 },
		"unknown":      func(p *fettlev1.Prepare) { p.User, p.Uid = "eve", 61_099 },
		"another name": func(p *fettlev1.Prepare) { p.User = "bob" },
		"nobody's":     func(p *fettlev1.Prepare) { p.User, p.Uid = "", 4294967295 },
	} {
		s := r.ada(uint64(len(name)), sh("true"))
		change(s.Prepare)
		r.m.Start(s)
		if e := r.failed(s.Key); !e.GetUserError() || e.GetDetail() == "" {
			t.Errorf("%s: %v", name, e)
		}
	}
}

func TestWithoutPrivilegesOnlyOwnJobs(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.UID = 61_050 }, withoutGroups)
	s := r.job(1, sh("true"))
	s.Prepare.Uid = 61_051
	r.m.Start(s)
	if e := r.failed(s.Key); !e.GetUserError() || !strings.Contains(e.GetDetail(), "uid 61050") {
		t.Errorf("%v", e)
	}
}

// TestHiddenDevices stands /dev/nvidia files in by others of our own making.
func TestHiddenDevices(t *testing.T) {
	t.Parallel()
	opt := asAda(t)
	dev := t.TempDir()
	proc := t.TempDir()
	for i := range 3 {
		// /dev/zero's numbers, so that an open device can be told from a closed one.
		if err := unix.Mknod(filepath.Join(dev, fmt.Sprint("nvidia", i)), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil {
			t.Skipf("mknod: %v", err)
		}
		d := filepath.Join(proc, fmt.Sprintf("0000:0%d:00.0", i))
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, "information"), fmt.Appendf(nil, "Device Minor: %d\n", i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{dev, filepath.Dir(dev)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var gpus []*fettlev1.GPU
	for i := range 3 {
		gpus = append(gpus, &fettlev1.GPU{Index: uint32(i), Uuid: fmt.Sprint("GPU-", i), PciBusId: fmt.Sprintf("00000000:0%d:00.0", i)})
	}
	fence, missing := gpufence.Detect(gpufence.Config{Dev: dev, Proc: proc}, gpus)
	if len(missing) != 0 {
		t.Fatal(missing)
	}
	// The device rules would close /dev/zero everywhere: this is about the mount namespace.
	r := newRig(t, opt, withoutGroups, func(c *Config) {
		c.Fence = func() *gpufence.Fence { return fence }
		c.Inventory = func() *fettlev1.Inventory { return &fettlev1.Inventory{Gpus: gpus} }
	})
	look := sh("for i in 0 1 2; do head -c1 " + dev + "/nvidia$i 2>/dev/null | wc -c; done; umount " + dev + "/nvidia0 2>/dev/null && echo uncovered; cat /proc/mounts | wc -l >/dev/null")
	for granted, want := range map[string]string{"": "0\n0\n0\n", "GPU-1": "0\n1\n0\n", "GPU-0 GPU-2": "1\n0\n1\n"} {
		s := r.ada(uint64(len(granted)+1), look)
		s.Prepare.Allocation.GpuUuids = strings.Fields(granted)
		s.Prepare.Spec.TruncateOutput = true
		if e := r.run(s); e.GetCode() != 0 {
			t.Fatal(e)
		}
		if got := r.read("out"); got != want {
			t.Errorf("granted %q: %q, want %q", granted, got, want)
		}
	}
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(b), dev) {
		t.Error("the covers are seen outside the job")
	}
}

func TestAttemptsFilesBelongToTheDaemon(t *testing.T) {
	t.Parallel()
	r := newRig(t, asAda(t))
	s := r.ada(1, sh("exit 0"))
	r.run(s)
	for path, want := range map[string]struct {
		uid  uint32
		mode uint32
	}{
		filepath.Join(r.dir, attemptsDir): {0, 0o700}, r.m.path(s.Key): {0, 0o600},
		filepath.Join(r.dir, filesDir): {0, 0o711}, r.m.filesOf(s.Key): {adaUID, 0o700},
	} {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || st.Uid != want.uid || st.Mode&0o777 != want.mode {
			t.Errorf("%s belongs to %d, mode %o, %v", path, st.Uid, st.Mode, err)
		}
	}
}
