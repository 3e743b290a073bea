package raftstore

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/fettle-hpc/fettle/ctld/internal/raftstore/datadir"
)

// Recover makes this server the only voter of its cluster, when a majority of the
// controllers is lost for good. Everything in its log counts as committed from
// then on; what only the lost ones had is gone, and because nobody can know what
// that was, the cluster gets a new incarnation. Controllers that were not lost
// after all must be discarded and join again; they cannot reach this one.
//
// No Store may be open on the directory. cfg.FSM is used up and cfg.Listener is
// closed; neither may be used for the Open that follows.
func Recover(cfg Config) (Identity, error) {
	if err := cfg.Validate(); err != nil {
		return Identity{}, err
	}
	cfg.setDefaults()
	dir, err := openDir(&cfg)
	if err != nil {
		return Identity{}, err
	}
	defer dir.Close()
	id, ok, err := dir.Identity()
	if err != nil {
		return Identity{}, err
	}
	if !ok {
		return Identity{}, fmt.Errorf("%w: %s: there is nothing to recover", ErrNoIdentity, dir.Path())
	}
	l, advertise, err := listen(&cfg)
	if err != nil {
		return Identity{}, err
	}
	_ = l.Close()
	d, err := openDisk(dir, &cfg,
		func(op string) { cfg.Fatal(ExitSlowWrite, "raft log: "+op+" is too slow") },
		func(op string, err error) { cfg.Fatal(ExitWriteError, fmt.Sprintf("raft log: %s: %v", op, err)) })
	if err != nil {
		return Identity{}, err
	}
	defer d.close()
	if err := contain(func() error { return d.verify(id.Origin) }); err != nil {
		return Identity{}, err
	}
	_, trans := raft.NewInmemTransport(raft.ServerAddress(advertise))
	err = contain(func() error {
		return raft.RecoverCluster(cfg.raftConfig(id.ServerID, nil), cfg.FSM, d.logs, d.guard, d.snaps, trans,
			raft.Configuration{Servers: []raft.Server{{
				Suffrage: raft.Voter, ID: raft.ServerID(id.ServerID), Address: raft.ServerAddress(advertise),
			}}})
	})
	if err != nil {
		return Identity{}, fmt.Errorf("recover: %w", err)
	}
	id.Incarnation = uuid.NewString()
	if err := dir.SetIdentity(id); err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrWrite, err)
	}
	return identity(id), nil
}

func identity(id datadir.Identity) Identity {
	return Identity{
		ClusterInfo: ClusterInfo{ClusterID: id.ClusterID, Incarnation: id.Incarnation},
		ServerID:    id.ServerID, Name: id.Name, Created: id.Created,
	}
}
