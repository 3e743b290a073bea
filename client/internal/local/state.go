package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

// stateFile is the file in the directory that says what the cluster consists of.
const stateFile = "cluster.json"

// stateVersion is the layout of the state file.
const stateVersion = 1

// Limits on a local cluster.
const (
	MaxControllers = 7
	MaxNodes       = 64
)

// state is what the cluster consists of. It changes only when something is added.
type state struct {
	Version     int          `json:"version"`
	Controllers []controller `json:"controllers"`
	Nodes       []node       `json:"nodes"`
	Settings    Settings     `json:"settings"`
}

type controller struct {
	Name       string `json:"name"`
	ClientAddr string `json:"client_addr"`
	RaftAddr   string `json:"raft_addr"`
	// Joined is set once it was seen as a voter.
	Joined bool `json:"joined"`
	// Lost is set from the loss of its data until it has joined again.
	Lost bool `json:"lost,omitempty"`
}

type node struct {
	Name string `json:"name"`
}

// Settings are what daemons are told.
type Settings struct {
	// GPUs is how many GPUs each node declares; -1 to detect them.
	GPUs int `json:"gpus"`
	// GPUType is the declared GPUs' type; may be empty.
	GPUType string `json:"gpu_type,omitempty"`
	// CPUs and MemoryMiB are what each node offers; 0 means what the machine has.
	CPUs      int   `json:"cpus,omitempty"`
	MemoryMiB int64 `json:"memory_mib,omitempty"`
	// Engine is the trainer's command; empty means the daemon's own default.
	Engine string `json:"engine,omitempty"`
	// Scheduler is the policy that was asked for last; new controllers start with it. A controller that is there goes by
	// its config file, where it may have been changed by hand.
	Scheduler string `json:"scheduler,omitempty"`
}

// DefaultDir is where a user's local cluster lives: $FETTLE_STATE_DIR, else $XDG_STATE_HOME/fettle, else
// ~/.local/state/fettle.
func DefaultDir(getenv func(string) string) (string, error) {
	if dir := getenv("FETTLE_STATE_DIR"); dir != "" {
		if !filepath.IsAbs(dir) {
			return "", fmt.Errorf("FETTLE_STATE_DIR: %q is not an absolute path; start it with /", dir)
		}
		return filepath.Clean(dir), nil
	}
	dir := getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(dir) {
		home := getenv("HOME")
		if !filepath.IsAbs(home) {
			return "", errors.New("HOME is not set, so there is no place for the cluster's state; set it, or use --dir")
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(dir, "fettle"), nil
}

// Controllers answers the client addresses of the cluster in dir, nil when there is none.
func Controllers(dir string) []string {
	st, err := load(dir)
	if err != nil {
		return nil
	}
	out := make([]string, len(st.Controllers))
	for i, c := range st.Controllers {
		out[i] = c.ClientAddr
	}
	return out
}

// errNoCluster says that dir holds no cluster.
var errNoCluster = errors.New("there is no cluster")

// load reads the state of dir; errNoCluster when there is none.
func load(dir string) (*state, error) {
	path := filepath.Join(dir, stateFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s; make one with fettle up", errNoCluster, dir)
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, foreign(path)
	}
	if err != nil {
		return nil, err
	}
	st := &state{}
	if err := json.Unmarshal(data, st); err != nil {
		return nil, fmt.Errorf("%s: is damaged (%v); end the daemons by hand, remove the directory and run fettle up again", path, err)
	}
	if st.Version != stateVersion {
		return nil, fmt.Errorf("%s: is of version %d, this fettle knows %d; use the fettle that made it", path, st.Version, stateVersion)
	}
	return st, nil
}

// foreign is the error for a file of a cluster that another user has made.
func foreign(path string) error {
	return fmt.Errorf("%s: permission denied, the cluster is another user's; work as that user, or name your own with --dir or FETTLE_STATE_DIR", path)
}

// save writes the state of dir: all of it or nothing.
func (st *state) save(dir string) error {
	data, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, stateFile), append(data, '\n'))
}

// writeFile replaces a file in one step.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Ports are looked for below the range that the kernel gives to outgoing connections, so that none of those sits on a
// daemon's port while the daemon is down.
const (
	lowestPort  = 10000
	highestPort = 32000
)

// reserve takes a free TCP port of the loopback interface, want if it is free, and keeps it until the listener is closed.
// Other fettle up leave the port alone until claim is closed too: it bridges the time until a daemon has the port.
func reserve(want int) (l net.Listener, claim io.Closer, err error) {
	for range 200 {
		// A name in the abstract space is given back by the kernel at the latest, and leaves no file.
		claim, err := net.Listen("unix", "@fettle-up-port-"+strconv.Itoa(want))
		if err == nil {
			l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(want)))
			if err == nil {
				return l, claim, nil
			}
			claim.Close()
		}
		want = lowestPort + rand.IntN(highestPort-lowestPort)
	}
	return nil, nil, errors.New("no free port was found; end what holds them")
}
