//go:build race

package fsm

const raceOn = true
