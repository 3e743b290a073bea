//go:build !cgo

package nvml

// Library is the driver's library at a path. This build has no cgo, so its Init always answers ErrNoCgo.
func Library(string) Driver { return noLibrary{} }

type noLibrary struct{}

func (noLibrary) Init() error                     { return ErrNoCgo }
func (noLibrary) Shutdown() error                 { return ErrNoCgo }
func (noLibrary) Version() (string, error)        { return "", ErrNoCgo }
func (noLibrary) Count() (int, error)             { return 0, ErrNoCgo }
func (noLibrary) Device(int) (Device, error)      { return nil, ErrNoCgo }
func (noLibrary) Events([]Device) (Events, error) { return nil, ErrNoCgo }
