package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestDefaultDir(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ own, xdg, home, want string }{
		{"/own/", "/x", "/h", "/own"}, {"", "/x", "/h", "/x/fettle"}, {"", "", "/h", "/h/.local/state/fettle"}, {"", "rel", "/h", "/h/.local/state/fettle"},
		{"rel", "/x", "/h", "!FETTLE_STATE_DIR"}, {"", "", "", "!HOME is not set"},
	} {
		got, err := DefaultDir(func(name string) string {
			return map[string]string{"FETTLE_STATE_DIR": tc.own, "XDG_STATE_HOME": tc.xdg, "HOME": tc.home}[name]
		})
		if problem, bad := strings.CutPrefix(tc.want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), problem) {
				t.Errorf("%+v: got %q, %v", tc, got, err)
			}
		} else if got != tc.want || err != nil {
			t.Errorf("%+v: got %q, %v", tc, got, err)
		}
	}
}

func TestARecordedProcessIsTheSameOrNone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	me, ok := identify(os.Getpid())
	if !ok || me.start == 0 {
		t.Fatalf("not found: %+v", me)
	}
	if _, ok := recorded(dir, "x"); ok {
		t.Error("recorded without a file")
	}
	if err := me.write(dir, "x"); err != nil {
		t.Fatal(err)
	}
	if got, ok := recorded(dir, "x"); !ok || got != me {
		t.Errorf("got %+v, %v, want %+v", got, ok, me)
	}
	for name, other := range map[string]identity{
		"another start": {me.pid, me.start + 1, me.boot},
		"another boot":  {me.pid, me.start, "11111111-2222"},
		"init":          {1, me.start, me.boot},
		"nobody":        {1 << 30, me.start, me.boot},
	} {
		if err := other.write(dir, "x"); err != nil {
			t.Fatal(err)
		}
		if got, ok := recorded(dir, "x"); ok {
			t.Errorf("%s: taken for %+v", name, got)
		}
		if name == "another start" {
			// A signal to it must not reach this process, which has the same number.
			if sent, err := other.signal(syscall.SIGKILL); sent || err != nil {
				t.Errorf("a signal was sent: %v, %v", sent, err)
			}
		}
	}
	for _, text := range []string{"", "x", "12", "-1 5 b", "0 5 b"} {
		if err := os.WriteFile(pidFile(dir, "x"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, ok := recorded(dir, "x"); ok {
			t.Errorf("%q: taken for %+v", text, got)
		}
	}
}

func TestZombiesAreGone(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("/bin/sh", "-c", "exit 3")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ch := &child{id: identity{pid: cmd.Process.Pid}, name: "x"}
	deadline := time.Now().Add(10 * time.Second)
	for {
		if _, ok := identify(cmd.Process.Pid); !ok {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("still there")
		}
	}
	if how, code := ch.exited(); how != "ended with exit status 3" || code != 3 {
		t.Errorf("got %q, %d", how, code)
	}
}

func TestStartAndEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"good", "bad", "deaf"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ch, err := start(dir, "good", "/bin/sh", []string{"-c", "echo started $X in $PWD; exec sleep 1000"}, []string{"X=y"})
	if err != nil {
		t.Fatal(err)
	}
	if sid, err := syscall.Getpgid(ch.id.pid); err != nil || sid != ch.id.pid {
		t.Errorf("its group is %d, not its own (%v)", sid, err)
	}
	if how, _ := ch.exited(); how != "" {
		t.Errorf("it has %s", how)
	}
	if _, ok := recorded(dir, "good"); !ok {
		t.Error("it is not recorded")
	}
	ended, err := endAll(dir, []string{"good", "never"}, 10*time.Second, func(string) {})
	if err != nil || len(ended) != 1 || ended[0] != "good" {
		t.Errorf("ended %v, %v", ended, err)
	}
	if _, ok := recorded(dir, "good"); ok {
		t.Error("it still runs")
	}

	ch, err = start(dir, "bad", "/bin/sh", []string{"-c", "echo one; echo; echo ' the reason '; exit 65"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	how := ""
	for how == "" && time.Now().Before(deadline) {
		how, _ = ch.exited()
	}
	if got, want := ch.failure(how).Error(), "bad ended with exit status 65: the reason; see "+filepath.Join(dir, "bad", "log"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}

	ch, err = start(dir, "deaf", "/bin/sh", []string{"-c", "trap '' TERM; echo ready; while :; do sleep 1; done"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for lastLine(ch.log, 0) != "ready" && time.Now().Before(deadline) {
	}
	if err := end(ch.id, "deaf", 50*time.Millisecond); err != nil {
		t.Errorf("it was not killed: %v", err)
	}
	if _, err := start(dir, "bad", filepath.Join(dir, "absent"), nil, nil); err == nil || !strings.Contains(err.Error(), "cannot be started: no such file") {
		t.Errorf("got %v", err)
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	n := func(i int) *int { return &i }
	s := func(v string) *string { return &v }
	c := &Cluster{dir: t.TempDir()}
	defer func() {
		for name := range c.held {
			c.freePorts(name)
		}
	}()
	if err := c.plan(Options{}); err != nil {
		t.Fatal(err)
	}
	if len(c.st.Controllers) != 3 || len(c.st.Nodes) != 1 || c.st.Settings.GPUs != -1 {
		t.Errorf("the standard cluster is %+v", c.st)
	}
	seen := make(map[string]bool)
	for _, ct := range c.st.Controllers {
		for _, a := range []string{ct.ClientAddr, ct.RaftAddr} {
			if host, _, err := net.SplitHostPort(a); err != nil || host != "127.0.0.1" || seen[a] {
				t.Errorf("bad or repeated address %s", a)
			}
			seen[a] = true
		}
	}
	// Ports are kept until the controller starts, and kept for good once it is a member.
	first := c.st.Controllers[0]
	if l, err := net.Listen("tcp", first.ClientAddr); err == nil {
		l.Close()
		t.Error("a port was not reserved")
	}
	c.st.Controllers[0].Joined = true
	first = c.st.Controllers[0]
	c.letGo()
	thief, err := net.Listen("tcp", c.st.Controllers[1].RaftAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	second := c.st.Controllers[1]
	if err := c.plan(Options{Controllers: 5, Nodes: 2, GPUs: n(8), GPUType: s("h100")}); err != nil {
		t.Fatal(err)
	}
	if got := c.st.Controllers[1]; got.RaftAddr == second.RaftAddr || got.ClientAddr != second.ClientAddr {
		t.Errorf("%+v became %+v when its Raft port was taken", second, got)
	}
	if len(c.st.Controllers) != 5 || c.st.Controllers[0] != first || c.st.Nodes[1].Name != "n2" {
		t.Errorf("grown to %+v", c.st)
	}
	if got := configText(c.nodeConfig(1)); !strings.Contains(got, "gres = \"gpu:h100:8\"\n") || !strings.Contains(got, "name = \"n2\"\n") {
		t.Errorf("config:\n%s", got)
	}
	for want, o := range map[string]Options{
		"has 5; start anew":   {Controllers: 3},
		"has 2; start anew":   {Nodes: 1},
		"must be 1, 3, 5":     {Controllers: 4},
		"more than 64":        {Nodes: 65},
		"add --gpus N":        {GPUs: n(-1)},
		"must be 1, 3, 5 or ": {Controllers: 9},
	} {
		if err := c.plan(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %s", o, err, want)
		}
		c.st.Settings.GPUs = 8
	}
}

func TestOnlyTheFirstNodeDetectsGPUs(t *testing.T) {
	t.Parallel()
	c := &Cluster{dir: "/d", st: &state{Settings: Settings{GPUs: -1}, Nodes: []node{{"n1"}, {"n2"}}}}
	if got := configText(c.nodeConfig(0)); strings.Contains(got, "gres") {
		t.Errorf("the first node's config:\n%s", got)
	}
	if got := configText(c.nodeConfig(1)); !strings.Contains(got, `gres = "none"`) {
		t.Errorf("the second node's config:\n%s", got)
	}
	c.st.Settings = Settings{GPUs: 2, Engine: "a \"b\"\\", CPUs: 3, MemoryMiB: 5}
	if got := configText(c.nodeConfig(1)); !strings.Contains(got, `gres = "gpu:2"`) || !strings.Contains(got, `engine = "a \"b\"\\"`) || !strings.Contains(got, "cpus = 3\nmemory = \"5M\"\n") {
		t.Errorf("config:\n%s", got)
	}
}

func TestADamagedStateIsRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"{": "is damaged", `{"version": 99}`: "is of version 99"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", text, err)
		}
		if got := Controllers(dir); got != nil {
			t.Errorf("%s: controllers %v", text, got)
		}
	}
}

func TestOneAtATime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := (&state{Version: stateVersion}).save(dir); err != nil {
		t.Fatal(err)
	}
	a, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, dir); err == nil {
		t.Error("two have the lock")
	}
	a.Close()
	b, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
}

func TestUpNeedsTheDaemons(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := Up(t.Context(), Options{Dir: filepath.Join(dir, "cl"), BinDir: dir})
	if want := fmt.Sprintf("fettle-ctld is not in %s; build it with make build, or name its directory with --bin-dir", dir); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestHealthy(t *testing.T) {
	t.Parallel()
	up := Status{Controllers: []Daemon{{Alive: true, Role: "leader"}, {Alive: true, Role: "follower"}}, Nodes: []Daemon{{Alive: true, Role: "up"}}}
	if !up.Healthy() {
		t.Error("a whole cluster is not healthy")
	}
	for _, f := range []func(*Status){
		func(s *Status) { s.Controllers[0].Role = "follower" },
		func(s *Status) { s.Controllers[1] = Daemon{Role: "ended"} },
		func(s *Status) { s.Controllers[1].Role = "silent" },
		func(s *Status) { s.Nodes[0].Role = "unreachable" },
		func(s *Status) { s.Nodes[0].Alive = false },
	} {
		s := Status{Controllers: append([]Daemon(nil), up.Controllers...), Nodes: append([]Daemon(nil), up.Nodes...)}
		f(&s)
		if s.Healthy() {
			t.Errorf("healthy: %+v", s)
		}
	}
}

// configText is what a new config file would say.
func configText(settings []setting) string {
	merged, _, err := mergeConfig("", settings)
	if err != nil {
		return err.Error()
	}
	return merged
}

func TestMergeConfig(t *testing.T) {
	t.Parallel()
	ours := []setting{text("name", "c1"), {"controllers", `["a", "b"]`}}
	const head = confHeader + "name = \"c1\"\ncontrollers = [\"a\", \"b\"]\n"
	for _, tc := range []struct {
		name, old, want string
		changed         bool
	}{
		{"new", "", head, true},
		{"same", head, head, false},
		{"of an earlier version", "# Written by fettle up.\nname = \"c1\"\ncontrollers = [\"a\", \"b\"]\n", head, false},
		{"a key of the user's", head + "scheduler = \"x\" # mine\n\n[node]\nname = \"kept\"\n", head + "scheduler = \"x\" # mine\n\n[node]\nname = \"kept\"\n", false},
		{"above ours", "log_level = \"debug\"\n" + head, head + "log_level = \"debug\"\n", false},
		{"ours changed", "name = \"other\"\ncontrollers = [\n  \"a\",\n  \"c\",\n]\ncpus = 3\n", head + "cpus = 3\n", true},
		{"no line end", "cpus = 3", head + "cpus = 3\n", true},
	} {
		got, changed, err := mergeConfig(tc.old, ours)
		if err != nil || got != tc.want || changed != tc.changed {
			t.Errorf("%s: changed %t, %v, got\n%s\nwant\n%s", tc.name, changed, err, got, tc.want)
		}
	}
	for old, want := range map[string]string{
		"cpus = \n":                                  "line 1: ",
		"note = \"\"\"\nname = 3\n\"\"\"\n":          "cannot be changed safely",
		"controllers = [\"x]\",\n\"y\"]\ncpus = 1\n": "cannot be changed safely",
	} {
		if got, _, err := mergeConfig(old, ours); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q, %v", old, got, err)
		}
	}
}

func TestForeignDirectory(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, stateFile), []byte("{}"), 0o000); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "is another user's; work as that user") {
		t.Errorf("got %v", err)
	}
}

// A lock whose directory was wiped while it was waited for is not one.
func TestLockOfWipedDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "cl")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	first, err := lockDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	first.st = &state{Version: stateVersion}
	if err := first.st.save(dir); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		second, err := lockDir(t.Context(), dir)
		if err == nil {
			second.Close()
		}
		got <- err
	}()
	if err := first.Wipe(); err != nil {
		t.Fatal(err)
	}
	first.Close()
	if err := <-got; !errors.Is(err, errNoCluster) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
}

// A port that is reserved is left alone by others also while its daemon is being started.
func TestReserve(t *testing.T) {
	t.Parallel()
	l, claim, err := reserve(lowestPort + os.Getpid()%1000)
	if err != nil {
		t.Fatal(err)
	}
	want := port(l.Addr().String())
	l.Close()
	other, otherClaim, err := reserve(want)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	defer otherClaim.Close()
	if got := port(other.Addr().String()); got == want {
		t.Errorf("port %d was given twice", got)
	}
	claim.Close()
}
