package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/fettle-hpc/fettle/client/internal/fakectl"
	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"fettle": main, "fsubmit": main, "fqueue": main, "fcancel": main, "finfo": main, "flog": main, "fctl": main,
		"fettle-ctld": standInController, "fettle-noded": standInNode,
	})
}

var update = flag.Bool("update", false, "write what commands print into the scripts")

// TestScripts runs every script of testdata/script against a controller of its own.
func TestScripts(t *testing.T) {
	t.Parallel()
	keepUsualPorts(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Deadline:            time.Now().Add(6 * time.Minute),
		UpdateScripts:       *update,
		Setup:               setup,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"fake": fake, "refused": refused, "same": same, "killdaemon": killDaemon},
	})
}

// keepUsualPorts lets every fettle up of the tests take ports at random: clusters side by side would else take those of
// each other's daemons that are down.
func keepUsualPorts(t *testing.T) {
	for port := 7100; port < 7170; port++ {
		if l, err := net.Listen("unix", "@fettle-up-port-"+strconv.Itoa(port)); err == nil {
			t.Cleanup(func() { l.Close() })
		}
	}
}

type serverKey struct{}

func setup(e *testscript.Env) error {
	s := fakectl.New()
	if err := s.Listen("127.0.0.1:0"); err != nil {
		return err
	}
	e.Defer(s.Stop)
	e.Values[serverKey{}] = s
	home := e.WorkDir + "/home"
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	e.Defer(func() { killAll(filepath.Join(home, ".local/state/fettle"), e.WorkDir+"/cl") })
	// An address on which nobody listens.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	dead := l.Addr().String()
	l.Close()
	e.Vars = append(e.Vars, "HOME="+home, "FETTLE_CONTROLLERS="+s.Addr(), "SERVER="+s.Addr(), "DEAD="+dead, "TZ=UTC", "LANG=C.UTF-8", "USER=alice")
	return nil
}

// fake tells the controller what to hold and how to behave.
func fake(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value(serverKey{}).(*fakectl.Server)
	if neg || len(args) == 0 {
		ts.Fatalf("usage: fake VERB ...")
	}
	verb, args := args[0], args[1:]
	read := func(m proto.Message) {
		if err := prototext.Unmarshal([]byte(ts.ReadFile(args[0])), m); err != nil {
			ts.Fatalf("%s: %v", args[0], err)
		}
	}
	number := func(v string) uint64 {
		n, err := strconv.ParseUint(v, 10, 64)
		ts.Check(err)
		return n
	}
	switch verb {
	case "put": // FILE of jobs; negative times count from now
		m := &fettlev1.ListJobsResponse{}
		read(m)
		for _, j := range m.GetJobs() {
			for _, at := range []*int64{&j.SubmitMs, &j.StartMs, &j.EndMs} {
				if *at < 0 {
					*at += time.Now().UnixMilli()
				}
			}
			s.Put(j)
		}
	case "nodes":
		m := &fettlev1.ListNodesResponse{}
		read(m)
		s.SetNodes(m.GetNodes()...)
	case "servers":
		m := &fettlev1.GetClusterResponse{}
		read(m)
		s.SetServers(m.GetServers()...)
	case "plugins":
		m := &fettlev1.ListPluginsResponse{}
		read(m)
		s.SetPlugins(m.GetPlugins()...)
	case "explain": // JOB FILE
		m := &fettlev1.ExplainJobResponse{}
		job := number(args[0])
		args = args[1:]
		read(m)
		s.SetExplanation(job, m)
	case "starts":
		m := &fettlev1.PredictStartsResponse{}
		read(m)
		s.SetStarts(m.GetStarts()...)
	case "usage":
		m := &fettlev1.GetUsageResponse{}
		read(m)
		s.SetUsage(m)
	case "predictions":
		m := &fettlev1.GetPredictionStatsResponse{}
		read(m)
		s.SetPredictionStats(m.GetStats()...)
	case "intheway": // JOB...
		var ids []uint64
		for _, a := range args {
			ids = append(ids, number(a))
		}
		s.SetInTheWay(ids...)
	case "policy":
		m := &fettlev1.ClusterPolicy{}
		read(m)
		s.StorePolicy(m)
	case "header": // FILE
		m := &fettlev1.Header{}
		read(m)
		s.SetHeader(func(h *fettlev1.Header) {
			h.Reset()
			proto.Merge(h, m)
		})
	case "dryrun": // FILE of a SubmitResult
		m := &fettlev1.SubmitResult{}
		read(m)
		s.Answer(m)
	case "log": // JOB ATTEMPT FILE [stderr]
		s.Log(number(args[0]), uint32(number(args[1])), len(args) > 3, ts.ReadFile(args[2]))
	case "change": // JOB STATE [EXIT [ATTEMPT]]
		st, ferr := model.ParseState(args[1])
		if ferr != nil {
			ts.Fatalf("%v", ferr)
		}
		s.Change(number(args[0]), func(j *fettlev1.Job) {
			j.State = st
			if len(args) > 2 {
				j.ExitCode = int32(number(args[2]))
			}
			if len(args) > 3 {
				j.Attempt = uint32(number(args[3]))
			}
			if model.Terminal(st) && len(args) > 2 {
				j.Attempts = []*fettlev1.Attempt{{Number: j.GetAttempt(), Outcome: st, Nodes: []*fettlev1.NodeAllocation{{Node: "n1", Exit: &fettlev1.Exit{Code: j.GetExitCode()}}}}}
			}
		})
	case "refuse": // FIELD PROBLEM REMEDY, of every submit
		d := &fettlev1.ErrorDetail{Field: args[0], Problem: args[1], Remedy: args[2]}
		s.Refuse(func(*fettlev1.JobSpec) *fettlev1.ErrorDetail { return d })
	case "fail": // METHOD CODE FIELD PROBLEM REMEDY [after]
		var code codes.Code
		ts.Check(code.UnmarshalJSON([]byte(strconv.Quote(args[1]))))
		s.Fail(args[0], fakectl.Fault{After: len(args) > 5, Err: fakectl.Refusal(code, &fettlev1.ErrorDetail{Field: args[2], Problem: args[3], Remedy: args[4]})})
	case "calls": // METHOD N
		if got := s.Calls(args[0]); got != int(number(args[1])) {
			ts.Fatalf("%s was called %d times, want %s", args[0], got, args[1])
		}
	case "spec": // FILE: writes the newest submitted specification as JSON, one field a line
		list := s.Submits()
		if len(list) == 0 {
			ts.Fatalf("nothing was submitted")
		}
		jobs := list[len(list)-1].GetJobs()
		text := string(render.AppendMessage(nil, jobs[len(jobs)-1].GetSpec()))
		text = strings.NewReplacer(ts.Getenv("WORK"), "$WORK", `,"`, ",\n\"").Replace(text)
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text+"\n"), 0o644))
	case "wait": // METHOD N: until it was called N times
		deadline := time.Now().Add(20 * time.Second)
		for s.Calls(args[0]) < int(number(args[1])) {
			if time.Now().After(deadline) {
				ts.Fatalf("%s was not called", args[0])
			}
			time.Sleep(5 * time.Millisecond)
		}
	case "stop":
		s.Stop()
	case "start":
		ts.Check(s.Listen(s.Addr()))
	default:
		ts.Fatalf("fake: unknown verb %q", verb)
	}
}

// refused runs a command and wants one exact line on stderr, nothing on stdout and an exit status:
//
//	refused STATUS 'LINE' COMMAND ARGS...
func refused(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: refused STATUS LINE COMMAND ARGS...")
	}
	err := ts.Exec(args[2], args[3:]...)
	status := 0
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		status = ee.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	want := strings.ReplaceAll(args[1], "$SERVER", ts.Getenv("SERVER"))
	want = strings.NewReplacer("$DEAD", ts.Getenv("DEAD"), "$HOME", ts.Getenv("HOME"), "$WORK", ts.Getenv("WORK")).Replace(want)
	if got := strings.TrimSuffix(ts.ReadFile("stderr"), "\n"); got != want {
		ts.Fatalf("%s\n got  %s\n want %s", strings.Join(args[2:], " "), got, want)
	}
	if got := ts.ReadFile("stdout"); got != "" {
		ts.Fatalf("stdout: %s", got)
	}
	if fmt.Sprint(status) != args[0] {
		ts.Fatalf("exit status %d, want %s", status, args[0])
	}
}

// same compares two texts line by line without regard to $WORK and trailing spaces: same FILE FILE.
func same(ts *testscript.TestScript, neg bool, args []string) {
	norm := func(name string) string {
		text := strings.ReplaceAll(ts.ReadFile(name), ts.Getenv("WORK"), "$WORK")
		lines := strings.Split(text, "\n")
		for i := range lines {
			lines[i] = strings.TrimRight(lines[i], " ")
		}
		return strings.Join(lines, "\n")
	}
	if a, b := norm(args[0]), norm(args[1]); (a == b) == neg {
		ts.Fatalf("%s:\n%s\n%s:\n%s", args[0], a, args[1], b)
	}
}

// killDaemon kills a daemon of `fettle up` as a crash would: killdaemon NAME.
func killDaemon(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(ts.Exec("fettle", "status", "--pid", args[0]))
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile("stdout")))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGKILL))
	deadline := time.Now().Add(10 * time.Second)
	for ts.Exec("fettle", "status", "--pid", args[0]) == nil {
		if time.Now().After(deadline) {
			ts.Fatalf("%s does not die", args[0])
		}
	}
}

// killAll ends what a failed script has left running in clusters.
func killAll(dirs ...string) {
	for _, dir := range dirs {
		files, _ := filepath.Glob(filepath.Join(dir, "*", "pid"))
		for _, f := range files {
			data, _ := os.ReadFile(f)
			var pid int
			if _, err := fmt.Sscan(string(data), &pid); err != nil || pid <= 1 {
				continue
			}
			// Only what is still one of the stand-ins of this test.
			exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
			if strings.HasPrefix(filepath.Base(exe), "fettle-") {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}
