package place

import (
	"math/bits"
	"slices"
	"strings"
)

// class is the ready nodes that have equal cards and the same of them free: the choice tells them apart by their CPUs and
// names alone. Nodes without a free CPU are in none, since every job takes one.
type class struct {
	classKey
	members []member
}

type classKey struct {
	p    *profile
	free uint64
	// idle is true while nobody is on the nodes.
	idle bool
}

// member is a node of a class with what Place compares, close together in memory.
type member struct {
	pos, rank int
	cpus, mem int64
	room      int64
}

// index finds nodes by what is free on them.
type index struct {
	classes map[classKey]*class
	// byType holds the classes with free cards of a type, and all classes under the empty type.
	byType map[string][]*class
	// sharing holds the nodes with shared cards by the size in bits of the most room that is left on one of them.
	sharing [64][]*record
	// free and usable count cards on ready nodes by type, and all of them under the empty type.
	free, usable map[string]int
	profiles     map[string]*profile
	// uuids finds the nodes that list a card.
	uuids map[string][]*record
	// leaves are the switches by name.
	leaves map[string]*leaf
	// stale is set while ranks do not follow names.
	stale bool

	// Room for what queries find, kept from one to the next; see leaf for stamp.
	found, grouped []candidate
	leafList       []*leaf
	stamp          uint64
}

func newIndex() index {
	return index{
		classes: map[classKey]*class{}, byType: map[string][]*class{}, free: map[string]int{}, usable: map[string]int{},
		profiles: map[string]*profile{}, uuids: map[string][]*record{}, leaves: map[string]*leaf{},
	}
}

// describe points a record to its profile and its switch, and its cards' UUIDs to the record.
func (c *Cluster) describe(rec *record) {
	gpus := rec.node.GPUs
	key := profileKey(gpus)
	p := c.profiles[key]
	if p == nil {
		p = newProfile(key, gpus)
		c.profiles[key] = p
	}
	p.users++
	rec.profile = p
	l := c.leaves[rec.node.Switch]
	if l == nil {
		l = &leaf{name: rec.node.Switch}
		c.leaves[l.name] = l
	}
	l.records++
	rec.leaf = l
	for i := range gpus {
		if list := c.uuids[gpus[i].UUID]; !slices.Contains(list, rec) {
			c.uuids[gpus[i].UUID] = append(list, rec)
		}
	}
}

// undescribe takes back what describe did.
func (c *Cluster) undescribe(rec *record) {
	if rec.profile == nil {
		return
	}
	for i := range rec.node.GPUs {
		uuid := rec.node.GPUs[i].UUID
		if list := slices.DeleteFunc(c.uuids[uuid], func(r *record) bool { return r == rec }); len(list) > 0 {
			c.uuids[uuid] = list
		} else {
			delete(c.uuids, uuid)
		}
	}
	if rec.profile.users--; rec.profile.users == 0 {
		delete(c.profiles, rec.profile.key)
	}
	if rec.leaf.records--; rec.leaf.records == 0 {
		delete(c.leaves, rec.leaf.name)
	}
	rec.profile, rec.leaf = nil, nil
}

// enter puts a record where it belongs now; leave takes it out of where it was.
func (c *Cluster) enter(rec *record) {
	if !rec.present || !rec.node.Ready {
		return
	}
	rec.entered = true
	c.countCards(rec, 1)
	if rec.cpusFree > 0 {
		c.join(rec)
	}
}

func (c *Cluster) join(rec *record) {
	key := classKey{rec.profile, rec.free, rec.idle()}
	cl := c.classes[key]
	if cl == nil {
		cl = &class{classKey: key}
		c.classes[key] = cl
		c.byType[""] = append(c.byType[""], cl)
		for i := range key.p.types {
			if t := &key.p.types[i]; t.name != "" && t.cards&key.free != 0 {
				c.byType[t.name] = append(c.byType[t.name], cl)
			}
		}
	}
	rec.class, rec.at = cl, len(cl.members)
	cl.members = append(cl.members, member{pos: rec.pos, rank: rec.rank, cpus: rec.cpusFree, mem: rec.memFree, room: rec.room})
	if rec.room > 0 {
		rec.bucket = bits.Len64(uint64(rec.room))
		rec.bucketAt = len(c.sharing[rec.bucket])
		c.sharing[rec.bucket] = append(c.sharing[rec.bucket], rec)
	}
}

func (c *Cluster) leave(rec *record) {
	if !rec.entered {
		return
	}
	rec.entered = false
	c.countCards(rec, -1)
	cl := rec.class
	if cl == nil {
		return
	}
	last := len(cl.members) - 1
	cl.members[rec.at] = cl.members[last]
	c.recs[cl.members[rec.at].pos].at = rec.at
	cl.members = cl.members[:last]
	rec.class = nil
	if last == 0 {
		delete(c.classes, cl.classKey)
		c.unlist("", cl)
		for i := range cl.p.types {
			if t := &cl.p.types[i]; t.name != "" && t.cards&cl.free != 0 {
				c.unlist(t.name, cl)
			}
		}
	}
	if rec.bucket > 0 {
		list := c.sharing[rec.bucket]
		moved := list[len(list)-1]
		list[rec.bucketAt], list[len(list)-1] = moved, nil
		moved.bucketAt = rec.bucketAt
		c.sharing[rec.bucket] = list[:len(list)-1]
		rec.bucket = 0
	}
}

func (c *Cluster) unlist(typ string, cl *class) {
	list := c.byType[typ]
	k := slices.Index(list, cl)
	list[k], list[len(list)-1] = list[len(list)-1], nil
	c.byType[typ] = list[:len(list)-1]
}

// countCards adds a record's cards to the sums, or takes them back.
func (c *Cluster) countCards(rec *record, sign int) {
	for i := range rec.profile.types {
		t := &rec.profile.types[i]
		f, u := sign*bits.OnesCount64(rec.free&t.cards), sign*bits.OnesCount64(rec.usable&t.cards)
		c.free[t.name] += f
		c.usable[t.name] += u
		if t.name != "" {
			c.free[""] += f
			c.usable[""] += u
		}
	}
}

// reorder makes ranks follow names after nodes were added.
func (c *Cluster) reorder() {
	if !c.stale {
		return
	}
	c.stale = false
	order := make([]*record, 0, len(c.recs))
	for _, rec := range c.recs {
		if rec != nil {
			order = append(order, rec)
		}
	}
	slices.SortFunc(order, func(a, b *record) int { return strings.Compare(a.node.Name, b.node.Name) })
	for i, rec := range order {
		rec.rank = i
		if rec.class != nil {
			rec.class.members[rec.at].rank = i
		}
	}
}

// types are the types of cards that nodes have, ready or not, in order.
func (c *Cluster) types() []string {
	var list []string
	for _, p := range c.profiles {
		for i := range p.types {
			if typ := p.types[i].name; typ != "" && !slices.Contains(list, typ) {
				list = append(list, typ)
			}
		}
	}
	slices.Sort(list)
	return list
}

// Free is how many cards of a type are free on ready nodes; of all types when it is empty. A request for more whole cards
// cannot be placed.
func (c *Cluster) Free(typ string) int { return c.free[typ] }

// Usable is how many cards of a type could be given on ready nodes were nothing held; of all types when it is empty.
func (c *Cluster) Usable(typ string) int { return c.usable[typ] }
