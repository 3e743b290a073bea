package attempt

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// eachIsolation runs a test with what the host has, and as on a host without cgroups.
func eachIsolation(t *testing.T, test func(t *testing.T, opts ...option)) {
	t.Run("host", func(t *testing.T) { t.Parallel(); test(t) })
	t.Run("no cgroups", func(t *testing.T) { t.Parallel(); test(t, withoutGroups) })
}

func TestExitsAreTold(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for i, c := range []struct {
		script       string
		code, signal int32
	}{
		{"exit 0", 0, 0}, {"exit 7", 7, 0}, {"exit 255", 255, 0}, {"kill -9 $$", -1, 9}, {"kill -TERM $$", -1, 15}, {"kill -SEGV $$", -1, 11},
	} {
		e := r.run(r.job(uint64(i+1), sh(c.script)))
		if e.GetCode() != c.code || e.GetSignal() != c.signal || e.GetNeverStarted() || e.GetTimedOut() || e.GetShimLost() {
			t.Errorf("%s: %v", c.script, e)
		}
		if e.GetStartMs() == 0 || e.GetEndMs() < e.GetStartMs() {
			t.Errorf("%s: from %d to %d", c.script, e.GetStartMs(), e.GetEndMs())
		}
	}
}

func TestOutputAndArguments(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.job(1, "#!/bin/sh -e\nprintf '<%s>' \"$@\"; echo oops >&2; cat; pwd\n")
	s.Prepare.Spec.Args = []string{"a b", "", "$(id)", "x\ny", "--", "*"}
	s.Prepare.Spec.StderrPath = "err-%j"
	if e := r.run(s); e.GetCode() != 0 {
		t.Fatal(e)
	}
	if got, want := r.read("out"), "<a b><><$(id)><x\ny><--><*>"+r.work+"\n"; got != want {
		t.Errorf("stdout %q, want %q", got, want)
	}
	if got := r.read("err-1"); got != "oops\n" {
		t.Errorf("stderr %q", got)
	}
	// A second attempt appends, or starts over when that was asked for.
	s2 := r.job(2, sh("echo second"))
	r.run(s2)
	if got := r.read("out"); !strings.HasSuffix(got, "\nsecond\n") {
		t.Errorf("appended: %q", got)
	}
	s3 := r.job(3, sh("echo third"))
	s3.Prepare.Spec.TruncateOutput = true
	r.run(s3)
	if got := r.read("out"); got != "third\n" {
		t.Errorf("truncated: %q", got)
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	gpus := []*fettlev1.GPU{{Index: 0, Uuid: "decl-0", Declared: true}, {Index: 1, Uuid: "decl-1", Declared: true}}
	r := newRig(t, func(c *Config) {
		c.Inventory = func() *fettlev1.Inventory { return &fettlev1.Inventory{Gpus: gpus} }
	})
	s := r.job(9, sh("env -0 >env0; echo $$ >pid"))
	p := s.Prepare
	s.Key.Attempt, p.Key.Attempt = 2, 2
	p.Spec.Env = []*fettlev1.KeyValue{{Key: "A", Value: "1\n2"}, {Key: "FETTLE_JOB_ID", Value: "666"}, {Key: "PATH", Value: "/bin:/usr/bin"}, {Key: "B=", Value: ""}}
	p.Allocation = &fettlev1.NodeAllocation{Node: "n2", GpuUuids: []string{"decl-1"}, Cpus: 3}
	p.Gang = []*fettlev1.GangMember{{Node: "n1", Address: "10.0.0.1"}, {Node: "n2", Address: "10.0.0.2"}}
	p.Rank, p.MasterPort = 1, 29_501
	if e := r.run(s); e.GetCode() != 0 {
		t.Fatal(e)
	}
	env := map[string]string{}
	for kv := range strings.SplitSeq(strings.TrimSuffix(r.read("env0"), "\x00"), "\x00") {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	for k, want := range map[string]string{
		"A": "1\n2", "PATH": "/bin:/usr/bin", "FETTLE_JOB_ID": "9", "FETTLE_ATTEMPT": "2", "FETTLE_FENCE": "109", "FETTLE_JOB_NAME": "job",
		"FETTLE_NODELIST": "n1,n2", "FETTLE_NNODES": "2", "FETTLE_NODE_RANK": "1", "FETTLE_GPUS": "1", "FETTLE_GPU_UUIDS": "decl-1",
		"FETTLE_CPUS": "3", "FETTLE_MASTER_ADDR": "10.0.0.1", "FETTLE_MASTER_PORT": "29501", "FETTLE_CLUSTER": "c1", "FETTLE_RESUME": "1",
		"FETTLE_SUBMIT_DIR": r.work, "FETTLE_ATTEMPT_DIR": r.m.filesOf(s.Key),
		"CUDA_VISIBLE_DEVICES": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29501", "NNODES": "2", "NODE_RANK": "1", "NPROC_PER_NODE": "1",
	} {
		if env[k] != want {
			t.Errorf("%s=%q, want %q", k, env[k], want)
		}
	}
	if env["HOME"] == "" || env["USER"] == "" {
		t.Errorf("HOME=%q USER=%q", env["HOME"], env["USER"])
	}
	for _, leak := range []string{"GOMAXPROCS", "B", "INVOCATION_ID"} {
		if _, ok := env[leak]; ok {
			t.Errorf("%s leaked into the job", leak)
		}
	}
}

func TestJobIsASessionOfItsOwnWithoutStrayDescriptors(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	e := r.run(r.job(1, sh("cut -d' ' -f1,5,6 /proc/$$/stat; ulimit -c; umask; exec grep -E 'NoNewPrivs|SigIgn|SigBlk' /proc/self/status")))
	if e.GetCode() != 0 {
		t.Fatal(e)
	}
	lines := strings.Split(r.read("out"), "\n")
	ids := strings.Fields(lines[0])
	if len(ids) != 3 || ids[0] != ids[1] || ids[0] != ids[2] {
		t.Errorf("pid, group, session: %v", ids)
	}
	for _, want := range []string{"SigBlk:\t0000000000000000", "NoNewPrivs:\t1", "\n0\n0022\n"} {
		if !strings.Contains(r.read("out"), want) {
			t.Errorf("no %q in %q", want, r.read("out"))
		}
	}
	// Signals 32 and 33 belong to the C library: whether they are ignored is inherited from whoever started the tests.
	_, mask, _ := strings.Cut(r.read("out"), "SigIgn:\t")
	mask, _, _ = strings.Cut(mask, "\n")
	if ignored, err := strconv.ParseUint(mask, 16, 64); err != nil || ignored&^(3<<31) != 0 {
		t.Errorf("the job ignores signals %q (%v)", mask, err)
	}
	s := r.job(2, sh("exec ls /proc/self/fd"))
	s.Prepare.Spec.StdoutPath = "fds"
	r.run(s)
	// 3 is the directory that ls reads.
	if got := strings.Fields(r.read("fds")); !slices.Equal(got, []string{"0", "1", "2", "3"}) {
		t.Errorf("descriptors %v", got)
	}
}

func TestTermThenGraceThenKill(t *testing.T) {
	t.Parallel()
	eachIsolation(t, func(t *testing.T, opts ...option) {
		r := newRig(t, opts...)
		s := r.job(1, sh("trap 'echo term >>out2' TERM; sleep 1000 & echo $! >child; echo $$ >pid; while :; do wait; sleep 1000 & done"))
		r.m.Start(s)
		r.started(s.Key)
		pid, child := r.pidIn("pid"), r.pidIn("child")
		r.m.Stop(s.Key, 300)
		e := r.ended(s.Key)
		if e.GetSignal() != 9 || e.GetCode() != -1 {
			t.Errorf("%v", e)
		}
		if !strings.HasPrefix(r.read("out2"), "term\n") {
			t.Errorf("no TERM came: %q", r.read("out2"))
		}
		if isAlive(pid) || isAlive(child) {
			t.Error("a process is left")
		}
	})
}

func TestGraceIsUsed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.job(1, sh("trap 'echo saved; exit 3' TERM; echo $$ >pid; while :; do sleep 0.05; done"))
	r.m.Start(s)
	r.started(s.Key)
	r.pidIn("pid")
	r.m.Stop(s.Key, 3_600_000)
	if e := r.ended(s.Key); e.GetCode() != 3 || e.GetSignal() != 0 {
		t.Errorf("%v", e)
	}
	if got := r.read("out"); !strings.HasSuffix(got, "saved\n") {
		t.Errorf("%q", got)
	}
}

func TestSecondStopShortensTheGrace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.job(1, sh("trap '' TERM; echo $$ >pid; while :; do sleep 0.05; done"))
	r.m.Start(s)
	r.started(s.Key)
	r.pidIn("pid")
	r.m.Stop(s.Key, 3_600_000)
	r.m.Stop(s.Key, 0)
	if e := r.ended(s.Key); e.GetSignal() != 9 {
		t.Errorf("%v", e)
	}
}

// A worker that was started in a session of its own, and given away by its parent, is what torchrun leaves behind.
const escapee = `setsid sh -c 'trap "" TERM HUP; (echo $$ >escaped; exec sleep 1000) & wait' >/dev/null 2>&1 &
setsid sh -c 'setsid sh -c "trap \"\" TERM HUP; echo \$\$ >escaped2; while :; do sleep 0.05; done" & exit' >/dev/null 2>&1
while ! [ -s escaped2 ] || ! [ -s escaped ]; do sleep 0.01; done
`

func TestNothingOutlivesTheFirstProcess(t *testing.T) {
	t.Parallel()
	eachIsolation(t, func(t *testing.T, opts ...option) {
		r := newRig(t, opts...)
		s := r.job(1, sh(escapee+"exit 5"))
		s.Prepare.Spec.KillGraceS = 1
		e := r.run(s)
		if e.GetCode() != 5 || e.GetSignal() != 0 {
			t.Errorf("%v", e)
		}
		for _, f := range []string{"escaped", "escaped2"} {
			if pid := r.pidIn(f); isAlive(pid) {
				t.Errorf("%s: %d lives", f, pid)
			}
		}
	})
}

func TestForkBombIsEnded(t *testing.T) {
	t.Parallel()
	eachIsolation(t, func(t *testing.T, opts ...option) {
		r := newRig(t, opts...)
		// Every process starts the next and ends: whoever lists pids is always late.
		s := r.job(1, sh(`cat >hop <<'X'
#!/bin/sh
trap "" TERM
[ -e stop ] && exit
setsid ./hop & exit
X
chmod +x hop; for i in 1 2 3 4; do setsid ./hop & done; echo $$ >pid; sleep 1000`))
		r.m.Start(s)
		r.started(s.Key)
		r.pidIn("pid")
		t.Cleanup(func() { _ = os.WriteFile(filepath.Join(r.work, "stop"), nil, 0o644) })
		r.m.Stop(s.Key, 50)
		if e := r.ended(s.Key); e.GetSignal() == 0 {
			t.Errorf("%v", e)
		}
	})
}

func TestTimeLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.job(1, sh("exec sleep 1000"))
	s.Prepare.TimeLimitS = 1
	if e := r.run(s); !e.GetTimedOut() || e.GetSignal() != 15 {
		t.Errorf("%v", e)
	}
}

func TestTimeLimitChanges(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	long := r.job(1, sh("exec sleep 1000"))
	r.m.Start(long)
	r.started(long.Key)
	r.m.SetLimit(long.Key, 1)
	if e := r.ended(long.Key); !e.GetTimedOut() {
		t.Errorf("shortened: %v", e)
	}
	short := r.job(2, sh("sleep 2; exit 4"))
	short.Prepare.TimeLimitS = 1
	r.m.Start(short)
	r.m.SetLimit(short.Key, 0)
	r.started(short.Key)
	if e := r.ended(short.Key); e.GetTimedOut() || e.GetCode() != 4 {
		t.Errorf("lifted: %v", e)
	}
}

func TestSignal(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.job(1, sh("trap 'echo usr1; exit 0' USR1; echo $$ >pid; sleep 1000 & wait"))
	r.m.Start(s)
	r.started(s.Key)
	r.pidIn("pid")
	r.m.Signal(s.Key, int32(unix.SIGUSR1))
	if e := r.ended(s.Key); e.GetCode() != 0 {
		t.Errorf("%v", e)
	}
	if r.read("out") != "usr1\n" {
		t.Errorf("%q", r.read("out"))
	}
}

func TestStopBeforeStart(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Workers = 1 })
	hold := make(chan struct{})
	r.m.enqueue(func() { <-hold })
	s := r.job(1, sh("echo ran >ran"))
	r.m.Start(s)
	r.m.Stop(s.Key, 1_000)
	close(hold)
	if e := r.failed(s.Key); !e.GetNeverStarted() || e.GetUserError() {
		t.Errorf("%v", e)
	}
	if exists(filepath.Join(r.work, "ran")) {
		t.Error("it ran")
	}
}

func TestForgetRemovesEverything(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.job(1, sh("mkdir -p $FETTLE_ATTEMPT_DIR/a/b; ln -s / $FETTLE_ATTEMPT_DIR/a/root; echo x >$FETTLE_ATTEMPT_DIR/a/b/c"))
	if e := r.run(s); e.GetCode() != 0 {
		t.Fatal(e)
	}
	if r.exitOf(s.Key) == nil {
		t.Error("the exit record is gone before its acknowledgement")
	}
	r.m.Forget(s.Key)
	eventually(t, "the directory is removed", func() bool { return !exists(r.m.path(s.Key)) && !exists(r.m.filesOf(s.Key)) })
	if !exists("/etc") {
		t.Fatal("a link was followed")
	}
	if path, _, ended, ok := r.m.Output(s.Key, false); !ok || path != filepath.Join(r.work, "out") {
		t.Errorf("who reads on after the end: %q, %v", path, ok)
	} else {
		<-ended
	}
}

func TestUsersMistakesAreTheirs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, c := range []string{"dir", "target"} {
		if err := os.Mkdir(filepath.Join(r.work, c), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(r.work, "fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("target/x", filepath.Join(r.work, "link")); err != nil {
		t.Fatal(err)
	}
	id := uint64(0)
	for name, c := range map[string]struct {
		change func(*fettlev1.JobSpec)
		want   string
	}{
		"no directory":   {func(s *fettlev1.JobSpec) { s.WorkDir = "/no/such/dir"; s.StdoutPath = r.work + "/o" }, "work_dir /no/such/dir: no such file or directory"},
		"file as cwd":    {func(s *fettlev1.JobSpec) { s.WorkDir = "/etc/passwd"; s.StdoutPath = r.work + "/o" }, "work_dir /etc/passwd: not a directory"},
		"no interpreter": {func(s *fettlev1.JobSpec) { s.Script = []byte("#!/no/such/shell\n") }, "the script's interpreter /no/such/shell: no such file or directory"},
		"no #!":          {func(s *fettlev1.JobSpec) { s.Script = []byte("echo hi\n") }, "the script names no interpreter: begin it with a line such as #!/bin/bash"},
		"windows":        {func(s *fettlev1.JobSpec) { s.Script = []byte("#!/bin/sh\r\necho hi\r\n") }, "the script has Windows line ends: convert it with dos2unix"},
		"out is a dir":   {func(s *fettlev1.JobSpec) { s.StdoutPath = "dir" }, "stdout " + r.work + "/dir: is a directory"},
		"out is a fifo":  {func(s *fettlev1.JobSpec) { s.StdoutPath = "fifo" }, "stdout " + r.work + "/fifo: is not a plain file"},
		"out is a link":  {func(s *fettlev1.JobSpec) { s.StdoutPath = "link" }, "stdout " + r.work + "/link: is a symbolic link, name the file itself"},
		"err nowhere":    {func(s *fettlev1.JobSpec) { s.StderrPath = "nowhere/err" }, "stderr " + r.work + "/nowhere/err: no such file or directory"},
		"empty script":   {func(s *fettlev1.JobSpec) { s.Script = nil }, "script: empty"},
	} {
		id++
		s := r.job(id, sh("true"))
		c.change(s.Prepare.Spec)
		r.m.Start(s)
		e := r.failed(s.Key)
		if !e.GetUserError() || !e.GetNeverStarted() || e.GetDetail() != c.want {
			t.Errorf("%s: %v, want %q", name, e, c.want)
		}
	}
}

func TestDevNullIsAnOutput(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.job(1, sh("echo hi; exit 2"))
	s.Prepare.Spec.StdoutPath = "/dev/null"
	if e := r.run(s); e.GetCode() != 2 {
		t.Errorf("%v", e)
	}
}

func TestNodesFaultsAreNotTheUsers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.job(1, sh("true"))
	s.Prepare.Allocation.GpuUuids = []string{"GPU-not-here"}
	r.m.Start(s)
	if e := r.failed(s.Key); e.GetUserError() || e.GetDetail() != "GPU GPU-not-here is not on this node" {
		t.Errorf("%v", e)
	}
	s = r.job(2, sh("true"))
	s.Prepare.Spec.Method = "lora"
	r.m.Start(s)
	if e := r.failed(s.Key); e.GetUserError() || !strings.Contains(e.GetDetail(), "lora") {
		t.Errorf("%v", e)
	}
	r.cfg.ShimPath = filepath.Join(r.dir, "no-shim")
	r.m.Close()
	r.open()
	s = r.job(3, sh("true"))
	r.m.Start(s)
	if e := r.failed(s.Key); e.GetUserError() || !strings.Contains(e.GetDetail(), "no-shim") {
		t.Errorf("%v", e)
	}
	if exists(r.m.path(s.Key)) || exists(r.m.filesOf(s.Key)) {
		t.Error("a directory is left that looks like an attempt")
	}
}

func TestGraceOutlastsTheScript(t *testing.T) {
	t.Parallel()
	eachIsolation(t, func(t *testing.T, opts ...option) {
		r := newRig(t, opts...)
		// The script has no trap and dies of TERM at once; its trainer saves first, in a session of its own, and would
		// take a second TERM as an order to hurry.
		s := r.job(1, sh(`setsid sh -c 'trap "trap \"echo hurried >>saved\" TERM; : >saving; while ! [ -e go ]; do sleep 0.01; done; echo saved >>saved; exit" TERM; echo $$ >pid; while :; do sleep 0.05; done' &
wait`))
		r.m.Start(s)
		r.started(s.Key)
		r.pidIn("pid")
		r.m.Stop(s.Key, 3_600_000)
		eventually(t, "the trainer saves", func() bool { return exists(filepath.Join(r.work, "saving")) })
		if err := os.WriteFile(filepath.Join(r.work, "go"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if e := r.ended(s.Key); e.GetSignal() != 15 {
			t.Errorf("%v", e)
		}
		if got := r.read("saved"); got != "saved\n" {
			t.Errorf("%q", got)
		}
	})
}
