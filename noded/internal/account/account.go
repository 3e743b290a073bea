// Package account resolves the users that jobs run as: from the passwd and group files, and for users of a directory
// service through getent, with a deadline and a memory, so that a hanging directory never stops the daemon.
package account

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Account is a user of this host.
type Account struct {
	Name     string
	UID, GID uint32
	Home     string
	Shell    string
	// Groups are all that the user is in, GID among them.
	Groups []uint32
}

// Errors of a look-up.
var (
	// ErrUnknown: no such user on this host.
	ErrUnknown = errors.New("unknown on this node")
	// ErrMismatch: the host knows the uid under another name.
	ErrMismatch = errors.New("has another name on this node")
)

// Config of Users. The zero value is the host's own files and getent.
type Config struct {
	Passwd, Group string
	// Command runs getent or id; by default the real ones with a deadline of 5 s.
	Command func(ctx context.Context, name string, args ...string) ([]byte, error)
	// Now is the clock for what is remembered.
	Now func() time.Time
}

const (
	commandTimeout = 5 * time.Second
	remember       = time.Minute
	rememberFailed = 10 * time.Second
)

// Users looks users up. It is safe for concurrent use.
type Users struct {
	cfg Config

	mu     sync.Mutex
	stamp  [2]fileStamp
	byUID  map[uint32]*Account
	asked  map[uint32]*answer
	asking map[uint32]*sync.Mutex
}

type fileStamp struct {
	size  int64
	mtime time.Time
}

type answer struct {
	account *Account
	err     error
	until   time.Time
}

// New returns a Users.
func New(cfg Config) *Users {
	if cfg.Passwd == "" {
		cfg.Passwd = "/etc/passwd"
	}
	if cfg.Group == "" {
		cfg.Group = "/etc/group"
	}
	if cfg.Command == nil {
		cfg.Command = command
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Users{cfg: cfg, asked: map[uint32]*answer{}, asking: map[uint32]*sync.Mutex{}}
}

// Lookup finds a user by uid; name, when it is not empty, must be the host's name for it. The result must not be changed.
func (u *Users) Lookup(ctx context.Context, uid uint32, name string) (*Account, error) {
	a, err := u.find(ctx, uid)
	if err != nil {
		return nil, fmt.Errorf("user %s (uid %d): %w", name, uid, err)
	}
	if name != "" && a.Name != name {
		return nil, fmt.Errorf("user %s (uid %d): %w: %s", name, uid, ErrMismatch, a.Name)
	}
	return a, nil
}

func (u *Users) find(ctx context.Context, uid uint32) (*Account, error) {
	u.mu.Lock()
	if err := u.refresh(); err != nil {
		u.mu.Unlock()
		return nil, err
	}
	if a := u.byUID[uid]; a != nil {
		u.mu.Unlock()
		return a, nil
	}
	if a := u.asked[uid]; a != nil && u.cfg.Now().Before(a.until) {
		u.mu.Unlock()
		return a.account, a.err
	}
	one := u.asking[uid]
	if one == nil {
		one = &sync.Mutex{}
		u.asking[uid] = one
	}
	u.mu.Unlock()

	// One question at a time for a user; the others take its answer.
	one.Lock()
	defer one.Unlock()
	u.mu.Lock()
	if a := u.asked[uid]; a != nil && u.cfg.Now().Before(a.until) {
		u.mu.Unlock()
		return a.account, a.err
	}
	u.mu.Unlock()
	a, err := u.ask(ctx, uid)
	keep := remember
	if err != nil {
		keep = rememberFailed
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked[uid] = &answer{a, err, u.cfg.Now().Add(keep)}
	return a, err
}

// refresh reads the files again when they have changed.
func (u *Users) refresh() error {
	var stamp [2]fileStamp
	for i, p := range []string{u.cfg.Passwd, u.cfg.Group} {
		st, err := os.Stat(p)
		if err != nil {
			return err
		}
		stamp[i] = fileStamp{st.Size(), st.ModTime()}
	}
	if u.byUID != nil && stamp == u.stamp {
		return nil
	}
	passwd, err := os.ReadFile(u.cfg.Passwd)
	if err != nil {
		return err
	}
	group, err := os.ReadFile(u.cfg.Group)
	if err != nil {
		return err
	}
	u.stamp, u.byUID = stamp, parse(passwd, group)
	return nil
}

func parse(passwd, group []byte) map[uint32]*Account {
	byUID := map[uint32]*Account{}
	byName := map[string]*Account{}
	for line := range bytes.Lines(passwd) {
		if a := parsePasswd(string(bytes.TrimSuffix(line, []byte{'\n'}))); a != nil && byUID[a.UID] == nil {
			byUID[a.UID], byName[a.Name] = a, a
		}
	}
	for line := range bytes.Lines(group) {
		f := strings.Split(string(bytes.TrimSuffix(line, []byte{'\n'})), ":")
		if len(f) < 4 {
			continue
		}
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			continue
		}
		for m := range strings.SplitSeq(f[3], ",") {
			if a := byName[m]; a != nil && !slices.Contains(a.Groups, uint32(gid)) {
				a.Groups = append(a.Groups, uint32(gid))
			}
		}
	}
	return byUID
}

// parsePasswd reads "name:password:uid:gid:comment:home:shell"; nil when the line is no user's.
func parsePasswd(line string) *Account {
	f := strings.Split(line, ":")
	if len(f) < 7 || f[0] == "" || f[0][0] == '#' || f[0][0] == '+' || f[0][0] == '-' {
		return nil
	}
	uid, err1 := strconv.ParseUint(f[2], 10, 32)
	gid, err2 := strconv.ParseUint(f[3], 10, 32)
	if err1 != nil || err2 != nil {
		return nil
	}
	a := &Account{Name: f[0], UID: uint32(uid), GID: uint32(gid), Home: f[5], Shell: f[6]}
	a.Groups = []uint32{a.GID}
	return a
}

// ask goes to the host's directory service.
func (u *Users) ask(ctx context.Context, uid uint32) (*Account, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	out, err := u.cfg.Command(ctx, "getent", "passwd", strconv.FormatUint(uint64(uid), 10))
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit), errors.Is(err, exec.ErrNotFound):
		return nil, ErrUnknown
	case err != nil:
		return nil, fmt.Errorf("getent passwd: %w", err)
	}
	a := parsePasswd(strings.TrimSpace(string(out)))
	if a == nil || a.UID != uid {
		return nil, ErrUnknown
	}
	out, err = u.cfg.Command(ctx, "id", "-G", "--", a.Name)
	if err != nil {
		return nil, fmt.Errorf("groups of %s: %w", a.Name, err)
	}
	for g := range strings.FieldsSeq(string(out)) {
		gid, err := strconv.ParseUint(g, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("groups of %s: %q", a.Name, out)
		}
		if !slices.Contains(a.Groups, uint32(gid)) {
			a.Groups = append(a.Groups, uint32(gid))
		}
	}
	return a, nil
}

func command(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.WaitDelay = time.Second
	return cmd.Output()
}
