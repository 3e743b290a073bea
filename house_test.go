// Package fettle holds the rules of the house as tests: which package may import which, and how packages are documented.
package fettle

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/fettle-hpc/fettle/"

type goPackage struct {
	ImportPath   string
	Dir          string
	Name         string
	GoFiles      []string
	CgoFiles     []string
	Imports      []string
	Deps         []string
	TestImports  []string
	XTestImports []string
}

func (p goPackage) rel() string { return strings.TrimPrefix(p.ImportPath, module) }

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Name,GoFiles,CgoFiles,Imports,Deps,TestImports,XTestImports", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatalf("go list output: %v", err)
		}
		pkgs = append(pkgs, p)
	}
}

func under(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// TestArrows checks that imports run downward only: client, noded, ctld → plugins/{host,sdk} → proto.
func TestArrows(t *testing.T) {
	t.Parallel()
	rules := []struct {
		from    string
		allowed []string
	}{
		{"proto", []string{"proto"}},
		{"plugins", []string{"plugins", "proto"}},
		{"client", []string{"client", "plugins/host", "plugins/sdk", "proto"}},
		{"noded", []string{"noded", "plugins/host", "plugins/sdk", "proto"}},
		{"ctld", []string{"ctld", "plugins/host", "plugins/sdk", "plugins/policy", "plugins/preempt", "proto"}},
	}
	for _, p := range packages(t) {
		for _, rule := range rules {
			if !under(p.rel(), rule.from) {
				continue
			}
			for _, imp := range p.Imports {
				rel, ours := strings.CutPrefix(imp, module)
				if !ours {
					continue
				}
				ok := false
				for _, a := range rule.allowed {
					ok = ok || under(rel, a)
				}
				if !ok {
					t.Errorf("%s imports %s: %s may import only %s", p.rel(), rel, rule.from, strings.Join(rule.allowed, ", "))
				}
			}
		}
	}
}

// TestLayers checks the order inside the controller: state below fsm below everything that has a clock or a network.
func TestLayers(t *testing.T) {
	t.Parallel()
	forbidden := map[string][]string{
		"ctld/internal/state":       {"ctld/internal/"},
		"ctld/internal/place":       {"ctld/internal/sched", "ctld/internal/session", "ctld/internal/api", "ctld/internal/raftstore", "ctld/internal/fsm"},
		"ctld/internal/sched":       {"ctld/internal/session", "ctld/internal/api", "ctld/internal/raftstore", "ctld/internal/fsm"},
		"ctld/internal/fsm":         {"ctld/internal/sched", "ctld/internal/place", "ctld/internal/session", "ctld/internal/api", "ctld/internal/raftstore"},
		"ctld/internal/raftstore":   {"ctld/internal/"},
		"proto/model":               {"ctld/", "noded/", "client/", "plugins/"},
		"noded/internal/attempt":    {"noded/internal/session"},
		"noded/internal/gres":       {"noded/internal/session", "noded/internal/attempt"},
		"plugins/sdk":               {"plugins/host", "plugins/launch", "plugins/policy", "plugins/preempt"},
		"plugins/policy":            {"plugins/host", "plugins/launch", "plugins/sdk", "plugins/preempt"},
		"plugins/preempt":           {"plugins/host", "plugins/launch", "plugins/sdk", "plugins/policy"},
		"proto/gres":                {"proto/model", "proto/nodemachine"},
		"plugins/host":              {"plugins/launch"},
		"plugins/launch":            {"plugins/host", "plugins/policy"},
		"client/jobscript":          {"client/api", "client/render"},
		"client/render":             {"client/cmd"},
		"client/api":                {"client/cmd", "client/render"},
		"noded/cmd/fettle-shim":     {"proto/fettle", "google.golang.org/grpc"},
		"plugins/cmd":               {"plugins/host"},
		"noded/internal/journal":    {"noded/internal/session", "noded/internal/attempt"},
		"proto/nodemachine":         {"ctld/", "noded/", "client/", "plugins/"},
		"plugins/launch/config":     {"plugins/sdk"},
		"plugins/launch/memory":     {"plugins/sdk"},
		"plugins/launch/checkpoint": {"plugins/sdk"},
	}
	for _, p := range packages(t) {
		for dir, bad := range forbidden {
			if !under(p.rel(), dir) {
				continue
			}
			for _, imp := range p.Imports {
				rel := strings.TrimPrefix(imp, module)
				for _, b := range bad {
					if strings.HasPrefix(rel, b) && !under(rel, dir) {
						t.Errorf("%s imports %s: %s may not import %s", p.rel(), rel, dir, b)
					}
				}
			}
		}
	}
}

// TestPureRooms checks that what Apply and the planner can reach has no clock, no randomness, no disk and no network of its own.
func TestPureRooms(t *testing.T) {
	t.Parallel()
	rooms := []string{"ctld/internal/state", "ctld/internal/fsm", "ctld/internal/sched", "ctld/internal/place", "proto/model", "proto/gres", "proto/nodemachine"}
	for _, p := range packages(t) {
		for _, room := range rooms {
			if p.rel() != room {
				continue
			}
			for _, imp := range p.Imports {
				switch imp {
				case "os", "net", "math/rand", "math/rand/v2", "crypto/rand", "syscall", "os/exec", "github.com/google/uuid":
					t.Errorf("%s imports %s: this room is pure; take the value from the command or the caller", p.rel(), imp)
				}
			}
			for _, name := range p.GoFiles {
				checkNoClock(t, p, name)
			}
		}
	}
}

func checkNoClock(t *testing.T, p goPackage, name string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), p.Dir+"/"+name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" {
			switch sel.Sel.Name {
			case "Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick":
				t.Errorf("%s/%s uses time.%s: time comes from the caller", p.rel(), name, sel.Sel.Name)
			}
		}
		return true
	})
}

// TestPackageComments checks that every package says what it is for, in exactly one file.
func TestPackageComments(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		var with []string
		generated := true
		for _, name := range append(append([]string{}, p.GoFiles...), p.CgoFiles...) {
			if strings.HasSuffix(name, ".pb.go") {
				continue
			}
			generated = false
			file, err := parser.ParseFile(token.NewFileSet(), p.Dir+"/"+name, nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if file.Doc != nil {
				with = append(with, name)
			}
		}
		if len(p.GoFiles)+len(p.CgoFiles) == 0 || generated {
			continue
		}
		if len(with) != 1 {
			t.Errorf("%s has %d package comments %v, want 1", p.rel(), len(with), with)
		}
	}
}

// TestCgoOnlyInNVML checks that everything but the NVML helper builds without a C compiler.
func TestCgoOnlyInNVML(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		if p.rel() == "noded/cmd/fettle-nvml" || under(p.rel(), "noded/internal/nvml") {
			continue
		}
		for _, dep := range p.Deps {
			if strings.HasPrefix(dep, "github.com/NVIDIA/go-nvml") {
				t.Errorf("%s depends on %s: only fettle-nvml may use cgo", p.rel(), dep)
			}
		}
		if len(p.CgoFiles) > 0 {
			t.Errorf("%s uses cgo in %v", p.rel(), p.CgoFiles)
		}
	}
}

// TestPackageNames checks that no package is a drawer for leftovers.
func TestPackageNames(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		switch p.Name {
		case "util", "utils", "common", "helpers", "helper", "misc", "structs", "types":
			t.Errorf("%s: name it after its job", p.rel())
		}
	}
}

// TestModule checks that go.mod replaces nothing and excludes nothing.
func TestModule(t *testing.T) {
	t.Parallel()
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mod)) {
		if strings.HasPrefix(line, "replace") || strings.HasPrefix(line, "exclude") {
			t.Errorf("go.mod: %q: fettle builds from published modules only", strings.TrimSpace(line))
		}
	}
}
