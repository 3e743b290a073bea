package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Exit statuses of fettle-ctld that say what became of its data.
const (
	exitNoIdentity = 64
	exitDataLost   = 65
	exitOtherState = 66
)

// ctldLock is the one file that a controller leaves in a data directory in which it found nothing.
const ctldLock = "LOCK"

// empty reports whether a controller that does not run has no data.
func (u *starter) empty(ct controller) bool {
	if _, ok := recorded(u.dir, ct.Name); ok {
		return false
	}
	entries, err := os.ReadDir(u.data(ct.Name))
	return errors.Is(err, os.ErrNotExist) ||
		err == nil && !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() != ctldLock })
}

func (u *starter) data(name string) string { return filepath.Join(u.dir, name, "data") }

func (u *starter) othersWithData(name string) bool {
	return slices.ContainsFunc(u.st.Controllers, func(ct controller) bool { return ct.Name != name && ct.Joined && !u.empty(ct) })
}

// lost notes that a member has lost its data. It must not come back as the member that it was: it would forget what it
// has promised.
func (u *starter) lost(ct *controller) error {
	ct.Joined, ct.Lost = false, true
	u.o.Say(ct.Name + " has lost its data; it joins again as a new member")
	return u.st.save(u.dir)
}

// mend deals with a daemon that was started here and has ended. A controller without data joins through the others;
// everything else is an error that says what to do.
func (u *starter) mend(ch *child, how string, code int) error {
	u.children = slices.DeleteFunc(u.children, func(x *child) bool { return x == ch })
	i := slices.IndexFunc(u.st.Controllers, func(ct controller) bool { return ct.Name == ch.name })
	if i < 0 {
		return ch.failure(how)
	}
	ct := &u.st.Controllers[i]
	switch {
	case code == exitNoIdentity && u.othersWithData(ct.Name) && ct.Joined:
		if err := u.lost(ct); err != nil || !u.joining {
			return err
		}
		return u.join(*ct)
	case code == exitNoIdentity && !u.othersWithData(ct.Name):
		return fmt.Errorf("%w; no other controller has its data either: start anew with %s && %s", ch.failure(how), u.again("down --wipe"), u.again("up"))
	case code == exitNoIdentity, code == exitDataLost, code == exitOtherState:
		return fmt.Errorf("%w; to let it join again without its data: mv %[2]s %[2]s.old && %[3]s", ch.failure(how), u.data(ct.Name), u.again("up"))
	}
	return ch.failure(how)
}

// again is a fettle command for this very cluster.
func (u *starter) again(verb string) string {
	return "fettle " + verb + " --dir " + u.dir
}

// noLeader says that no controller leads, and what that means when too many have lost their data.
func (u *starter) noLeader() string {
	var lost []string
	members := 0
	for _, ct := range u.st.Controllers {
		if ct.Lost {
			lost = append(lost, ct.Name)
		} else if ct.Joined {
			members++
		}
	}
	if len(lost) == 0 || members > len(lost) {
		return "no controller leads"
	}
	return "no controller leads: " + strings.Join(lost, " and ") + " lost their data and the others are no majority; start anew with " +
		u.again("down --wipe") + " && " + u.again("up")
}

// joinOthers starts the controllers that are not members yet, and waits until they are.
func (u *starter) joinOthers(ctx context.Context) error {
	u.joining = true
	waiting := false
	for _, ct := range u.st.Controllers {
		if !ct.Joined {
			waiting = true
			if err := u.join(ct); err != nil {
				return err
			}
		}
	}
	msg := ""
	if waiting {
		msg = "waiting for all controllers to be members"
	}
	return u.wait(ctx, msg, u.allVoters)
}

// join starts a controller that joins through those that are members.
func (u *starter) join(ct controller) error {
	var via []string
	for _, other := range u.st.Controllers {
		if other.Joined {
			via = append(via, other.ClientAddr)
		}
	}
	return u.controller(ct, "--join", strings.Join(via, ","))
}

// controller starts a controller unless it runs.
func (u *starter) controller(ct controller, args ...string) error {
	settings := u.controllerConfig(ct)
	_, err := os.Stat(filepath.Join(u.dir, ct.Name, "config.toml"))
	if u.o.Scheduler != nil || u.st.Settings.Scheduler != "" && errors.Is(err, os.ErrNotExist) {
		name, err := u.scheduler(ct, u.st.Settings.Scheduler)
		if err != nil {
			return err
		}
		settings = append(settings, text("scheduler", name))
	}
	changed, err := u.config(ct.Name, settings)
	if err != nil {
		return err
	}
	if _, ok := recorded(u.dir, ct.Name); ok {
		if changed {
			u.changed = append(u.changed, ct)
		}
		return nil
	}
	u.freePorts(ct.Name)
	return u.daemon("fettle-ctld", ct.Name, "controller "+ct.Name+" on "+ct.ClientAddr, args...)
}

// restartChanged starts controllers again whose config has changed while they ran, one at a time, so that the others are
// a majority meanwhile.
func (u *starter) restartChanged(ctx context.Context) error {
	for _, ct := range u.changed {
		id, ok := recorded(u.dir, ct.Name)
		if ok {
			u.o.Say("starting " + ct.Name + " again, its settings have changed")
			if err := end(id, ct.Name, DefaultGrace); err != nil {
				return err
			}
		}
		if err := u.daemon("fettle-ctld", ct.Name, "controller "+ct.Name+" on "+ct.ClientAddr); err != nil {
			return err
		}
		if err := u.wait(ctx, "waiting for "+ct.Name, u.allVoters); err != nil {
			return err
		}
	}
	return nil
}
