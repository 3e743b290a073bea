// Package config reads a training config as a launcher sees it: every key known and of the right type, the short form
// spelled out, contradictions refused with the line and the remedy, and the final YAML written for the trainer.
//
// It looks at no files. Values keep the line that they came from, and each change that fettle makes leaves a note.
package config
