package datadir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// identityFormat is the version of identity.json.
const identityFormat = 1

// Identity is the content of identity.json.
type Identity struct {
	Format      int       `json:"format"`
	ClusterID   string    `json:"cluster_id"`
	Incarnation string    `json:"incarnation"`
	ServerID    string    `json:"server_id"`
	Name        string    `json:"name"`
	Origin      string    `json:"origin"`
	Created     time.Time `json:"created"`
}

// Origins of an identity.
const (
	OriginBootstrap = "bootstrap"
	OriginJoin      = "join"
)

// Mark is the high-water mark: the log once reached this far, so a log that does
// not has lost data.
type Mark struct {
	// Index and Term were committed and seen. Term may be newer than the entry's.
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
	// Started is set once the log held its first entry.
	Started bool `json:"started"`
}

// Identity returns the identity, and whether there is one.
func (d *Dir) Identity() (Identity, bool, error) { return d.readIdentity(identityFile) }

// PendingIdentity returns the identity of a bootstrap that was not finished.
func (d *Dir) PendingIdentity() (Identity, bool, error) {
	return d.readIdentity(identityFile + pendingSuffix)
}

func (d *Dir) readIdentity(name string) (Identity, bool, error) {
	data, err := os.ReadFile(d.file(name))
	if errors.Is(err, fs.ErrNotExist) {
		return Identity{}, false, nil
	}
	if err != nil {
		return Identity{}, false, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	var id Identity
	if err := strict(data, &id); err != nil {
		return Identity{}, false, fmt.Errorf("%w: %s: %w", ErrDamaged, d.file(name), err)
	}
	if id.Format != identityFormat {
		return Identity{}, false, fmt.Errorf("%w: %s: format %d is not the known %d", ErrDamaged, d.file(name), id.Format, identityFormat)
	}
	if id.ClusterID == "" || id.Incarnation == "" || id.ServerID == "" {
		return Identity{}, false, fmt.Errorf("%w: %s: a field is empty", ErrDamaged, d.file(name))
	}
	return id, true, nil
}

// SetIdentity writes the identity durably.
func (d *Dir) SetIdentity(id Identity) error { return d.writeIdentity(identityFile, id) }

// SetPendingIdentity notes the identity that a bootstrap is about to use.
// CommitIdentity makes it the identity once the log holds the membership.
func (d *Dir) SetPendingIdentity(id Identity) error {
	return d.writeIdentity(identityFile+pendingSuffix, id)
}

// CommitIdentity makes the pending identity the identity.
func (d *Dir) CommitIdentity() error {
	if err := os.Rename(d.file(identityFile+pendingSuffix), d.file(identityFile)); err != nil {
		return err
	}
	return syncDir(d.path)
}

func (d *Dir) writeIdentity(name string, id Identity) error {
	id.Format = identityFormat
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	return d.write(name, append(data, '\n'))
}

// Mark returns the high-water mark; a directory without one has the zero mark.
func (d *Dir) Mark() (Mark, error) {
	data, err := os.ReadFile(d.file(markFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Mark{}, nil
	}
	var m Mark
	if err == nil {
		err = strict(data, &m)
	}
	if err != nil {
		return Mark{}, fmt.Errorf("%w: %s: %w", ErrDamaged, d.file(markFile), err)
	}
	return m, nil
}

// SetMark writes the high-water mark durably.
func (d *Dir) SetMark(m Mark) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return d.write(markFile, append(data, '\n'))
}

func strict(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	return dec.Decode(v)
}
