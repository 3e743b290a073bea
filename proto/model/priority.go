package model

// Priorities run from 1, the most urgent, to 10.
const (
	MinPriority     = 1
	MaxPriority     = 10
	DefaultPriority = 5
)

// Names of the three bands of priorities.
const (
	BandProduction  = "production"
	BandRoutine     = "routine"
	BandExploratory = "exploratory"
)

// Band names the band of a priority: 1-3 production, 4-6 routine, 7-10 exploratory. 0 counts as the default.
func Band(priority uint32) string {
	switch {
	case priority == 0:
		return BandRoutine
	case priority <= 3:
		return BandProduction
	case priority <= 6:
		return BandRoutine
	}
	return BandExploratory
}
