package command

import (
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

// selectFlags pick jobs. All that are given must hold; values in a list are alternatives.
func selectFlags() []*option {
	const group = "Selection"
	return []*option{
		{name: "user", short: "u", arg: "USER,...", repeat: true, help: "jobs of these users", group: group},
		{name: "me", help: "jobs of your own", group: group},
		{name: "states", short: "t", arg: "STATE,...", repeat: true, help: "jobs in these states: PD, R, CG, CD, F, CA, TO, OOM, NF or their names, or all", group: group},
		{name: "name", short: "n", arg: "NAME,...", repeat: true, help: "jobs with these names", group: group},
		{name: "partition", short: "p", arg: "NAME,...", repeat: true, help: "jobs in these partitions", group: group},
		{name: "project", short: "A", arg: "NAME,...", repeat: true, help: "jobs of these projects", group: group},
		{name: "nodelist", short: "w", arg: "LIST", repeat: true, help: "jobs on any of these nodes, for example gpu[01-04]", group: group},
	}
}

// selector reads the selection flags. any reports whether one was given.
func (c *call) selector() (sel *fettlev1.JobSelector, any bool, err error) {
	sel = &fettlev1.JobSelector{}
	for _, list := range []struct {
		name string
		into *[]string
	}{{"user", &sel.Users}, {"name", &sel.Names}, {"partition", &sel.Partitions}, {"project", &sel.Projects}} {
		for _, g := range c.all(list.name) {
			any = true
			for v := range strings.SplitSeq(g.value, ",") {
				if v = strings.TrimSpace(v); v == "" {
					return nil, false, g.bad("has an empty item", "use a list such as A,B")
				}
				if len(v) > model.MaxUser {
					return nil, false, g.bad("has an item longer than "+strconv.Itoa(model.MaxUser)+" bytes", "")
				}
				*list.into = append(*list.into, v)
			}
		}
	}
	if c.on("me") {
		any = true
		name, err := currentUser()
		if err != nil {
			return nil, false, err
		}
		sel.Users = append(sel.Users, name)
	}
	for _, g := range c.all("states") {
		any = true
		for v := range strings.SplitSeq(g.value, ",") {
			if strings.EqualFold(strings.TrimSpace(v), "all") {
				sel.States = append(sel.States, model.States()...)
				continue
			}
			s, ferr := model.ParseState(v)
			if ferr != nil {
				return nil, false, g.bad(strings.TrimPrefix(ferr.Problem, gres.Quote(v)+" "), ferr.Remedy)
			}
			if !slices.Contains(sel.States, s) {
				sel.States = append(sel.States, s)
			}
		}
	}
	for _, g := range c.all("nodelist") {
		any = true
		names, err := gres.ExpandHosts(g.value)
		if err != nil {
			return nil, false, g.wrap(err)
		}
		sel.Nodes = append(sel.Nodes, names...)
	}
	return sel, any, nil
}

// wrap makes a usage error of what package gres says about a flag's value.
func (g given) wrap(err error) error {
	return &usageError{msg: gres.Rename(err, g.written).Error()}
}

// jobs reads job numbers, ranges and elements of arrays from arguments.
func jobs(args []string) (gres.Jobs, error) {
	for _, a := range args {
		if _, err := gres.ParseJobs(a); err != nil {
			return gres.Jobs{}, &usageError{msg: gres.Rename(err, "job").Error()}
		}
	}
	if len(args) == 0 {
		return gres.Jobs{}, nil
	}
	list, err := gres.ParseJobs(strings.Join(args, ","))
	if err != nil {
		return gres.Jobs{}, usagef("more than "+render.Count(gres.MaxJobIDs)+" jobs are named", "name fewer, or use -u, -t or -n")
	}
	slices.Sort(list.IDs)
	list.IDs = slices.Compact(list.IDs)
	return list, nil
}

// pick puts jobs that are named into a selector.
func pick(sel *fettlev1.JobSelector, list gres.Jobs) {
	sel.Ids = list.IDs
	for _, e := range list.Elements {
		sel.Elements = append(sel.Elements, &fettlev1.ElementSelector{JobId: e.Job, Ranges: model.ArrayRanges(e.Ranges)})
	}
}

// named reports whether a selector names jobs.
func named(sel *fettlev1.JobSelector) bool { return len(sel.GetIds())+len(sel.GetElements()) > 0 }

// refs are the jobs of a list one by one.
func refs(list gres.Jobs) []api.JobRef {
	out := make([]api.JobRef, 0, len(list.IDs))
	for _, id := range list.IDs {
		out = append(out, api.JobRef{ID: id})
	}
	for _, e := range list.Elements {
		model.ArrayEach(model.ArrayRanges(e.Ranges), func(i uint32) bool {
			out = append(out, api.JobRef{ID: e.Job, Index: &i})
			return true
		})
	}
	return out
}

// names prints jobs one by one or, when there are many, their number.
func names(list []string) string {
	if len(list) == 1 {
		return "job " + list[0]
	}
	return "jobs " + strings.Join(list, ",")
}

// currentUser is the name of the user that runs the command; of the effective one, as the controller sees it.
func currentUser() (string, error) {
	u, err := user.Current()
	if err != nil {
		return "", err
	}
	return u.Username, nil
}
