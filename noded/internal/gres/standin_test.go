package gres

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/gres/report"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == HelperName {
		standIn(filepath.Dir(os.Args[0]))
	}
	goleak.VerifyTestMain(m)
}

// standIn is this test under the name of fettle-nvml. In its directory is a plan for each of its runs: plan.1, plan.2, …;
// later runs follow the last one. It notes its process number in pid.1, pid.2, … . A line of a plan is a message to print
// or one of the words below.
func standIn(dir string) {
	n := 1
	for ; ; n++ {
		f, err := os.OpenFile(fmt.Sprintf("%s/pid.%d", dir, n), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			panic(err)
		}
		_, _ = fmt.Fprint(f, os.Getpid())
		_ = f.Close()
		break
	}
	_ = os.WriteFile(fmt.Sprintf("%s/args.%d", dir, n), []byte(strings.Join(os.Args[1:], " ")), 0o644)
	_ = os.WriteFile(fmt.Sprintf("%s/env.%d", dir, n), []byte(strings.Join(os.Environ(), "\n")), 0o644)
	var plan []byte
	for ; plan == nil && n > 0; n-- {
		plan, _ = os.ReadFile(fmt.Sprintf("%s/plan.%d", dir, n))
	}
	lines := bufio.NewScanner(bytes.NewReader(plan))
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		follow(dir, lines.Text())
	}
	os.Exit(0)
}

func follow(dir, line string) {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "hang": // as a process in the driver does: nothing but SIGKILL ends it
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
		for {
			time.Sleep(time.Hour)
		}
	case "await": // a file that the test makes
		for {
			if _, err := os.Stat(filepath.Join(dir, rest)); err == nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	case "crash":
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		time.Sleep(time.Hour)
	case "complain":
		fmt.Fprintln(os.Stderr, rest)
	case "exit":
		code, _ := strconv.Atoi(rest)
		os.Exit(code)
	case "huge":
		b := bytes.Repeat([]byte("x"), 1<<20)
		for {
			if _, err := os.Stdout.Write(b); err != nil {
				os.Exit(9)
			}
		}
	case "endless":
		for {
			if _, err := fmt.Println(rest); err != nil {
				os.Exit(9)
			}
		}
	case "loud":
		_, _ = os.Stderr.Write(bytes.Repeat([]byte("complaint\n"), 100_000))
	case "half":
		fmt.Print(rest)
		os.Exit(0)
	case "orphan": // a process that keeps the output open
		cmd := exec.Command("sleep", "1000")
		cmd.Stdout = os.Stdout
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		_ = os.WriteFile(filepath.Join(dir, "orphan"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644)
	default:
		fmt.Println(line)
	}
}

// stand is a directory with a stand-in for fettle-nvml.
type stand struct {
	t   *testing.T
	dir string
}

func newStand(t *testing.T, plans ...[]string) stand {
	t.Helper()
	s := stand{t, t.TempDir()}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, s.path()); err != nil {
		t.Fatal(err)
	}
	for i, plan := range plans {
		if err := os.WriteFile(fmt.Sprintf("%s/plan.%d", s.dir, i+1), []byte(strings.Join(plan, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s stand) path() string { return filepath.Join(s.dir, HelperName) }

// allow makes the file that an await waits for.
func (s stand) allow(name string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), nil, 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s stand) read(name string) string {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// runs is how often it was started.
func (s stand) runs() int {
	list, err := filepath.Glob(filepath.Join(s.dir, "pid.*"))
	if err != nil {
		s.t.Fatal(err)
	}
	return len(list)
}

// gone checks that the process noted in a file is there no more.
func (s stand) gone(name string) {
	s.t.Helper()
	pid, err := strconv.Atoi(s.read(name))
	if err != nil {
		s.t.Fatal(err)
	}
	s.until("process "+strconv.Itoa(pid)+" is gone", func() bool {
		// One that nobody reaps because its parent is gone too is as good as gone.
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || bytes.Contains(stat, []byte(") Z "))
	})
}

// until polls until something is so.
func (s stand) until(what string, so func() bool) {
	s.t.Helper()
	end := time.Now().Add(time.Minute)
	for !so() {
		if time.Now().After(end) {
			s.t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// Messages for plans.

func line(m report.Message) string {
	m.Version = report.Version
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func gpu(i int) report.GPU {
	return report.GPU{Index: uint32(i), UUID: uuid(i), Model: "NVIDIA H100 80GB HBM3", Type: "h100", MemoryMiB: 81559, PCIBusID: fmt.Sprintf("0000:%02x:00.0", i), NUMANode: 0}
}

func uuid(i int) string { return fmt.Sprintf("GPU-%04d", i) }

func listOf(gpus ...report.GPU) *report.Inventory {
	return &report.Inventory{Driver: "570.1", GPUs: append([]report.GPU{}, gpus...)}
}

func has(n int) string {
	inv := listOf()
	for i := range n {
		inv.GPUs = append(inv.GPUs, gpu(i))
	}
	return line(report.Message{Inventory: inv})
}

func uses(n int) string {
	r := &report.Readings{GPUs: []report.Reading{}}
	for i := range n {
		used := int64(1000 + i)
		r.GPUs = append(r.GPUs, report.Reading{UUID: uuid(i), MemoryUsedMiB: &used, Processes: []report.Process{{PID: uint32(100 + i), MemoryMiB: used}}})
	}
	return line(report.Message{Readings: r})
}

func met(i int, xid uint32) string {
	return line(report.Message{Event: &report.Event{UUID: uuid(i), Kind: report.EventXID, XID: xid}})
}
