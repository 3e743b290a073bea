package peernet

import (
	"errors"
	"fmt"
	"io"
)

// The greeting: magic, then three strings, each after its length in one byte. The
// answer is one byte.
const magic = "fettle-raft\x01"

// Verdicts.
const (
	welcome byte = iota
	otherCluster
	otherServer
	forbidden
	retired
)

// Errors of Dial.
var (
	// ErrOtherCluster means that the address serves another cluster.
	ErrOtherCluster = errors.New("another cluster answers there")
	// ErrOtherServer means that the address is now another server's.
	ErrOtherServer = errors.New("another server answers there")
	// ErrRetired means that this server's ID was removed from the cluster for good.
	// Authorize returns it to say so to the peer.
	ErrRetired = errors.New("server ID is retired")
	// ErrForbidden means that the server there does not talk to this one.
	ErrForbidden = errors.New("refused by the server there")
)

type hello struct{ cluster, from, to string }

func writeHello(w io.Writer, h hello) error {
	buf := []byte(magic)
	for _, s := range []string{h.cluster, h.from, h.to} {
		if len(s) > maxField {
			return fmt.Errorf("greeting: %q is longer than %d bytes", s, maxField)
		}
		buf = append(buf, byte(len(s)))
		buf = append(buf, s...)
	}
	_, err := w.Write(buf)
	return err
}

func readHello(r io.Reader) (hello, error) {
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(r, head); err != nil {
		return hello{}, fmt.Errorf("greeting: %w", err)
	}
	if string(head) != magic {
		return hello{}, errors.New("greeting: not a fettle controller")
	}
	var h hello
	for _, s := range []*string{&h.cluster, &h.from, &h.to} {
		var n [1]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return hello{}, fmt.Errorf("greeting: %w", err)
		}
		field := make([]byte, n[0])
		if _, err := io.ReadFull(r, field); err != nil {
			return hello{}, fmt.Errorf("greeting: %w", err)
		}
		*s = string(field)
	}
	return h, nil
}

func readVerdict(r io.Reader) error {
	var v [1]byte
	if _, err := io.ReadFull(r, v[:]); err != nil {
		return fmt.Errorf("greeting: no answer: %w", err)
	}
	switch v[0] {
	case welcome:
		return nil
	case otherCluster:
		return ErrOtherCluster
	case otherServer:
		return ErrOtherServer
	case retired:
		return ErrRetired
	}
	return ErrForbidden
}
