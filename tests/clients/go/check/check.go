// Package check is what the programs for each Go client share: expectations that end the program,
// waiting with an end, and asking for a crash of the broker.
package check

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"
)

// Patience is how long anything that should work may take on a busy machine.
const Patience = 60 * time.Second

// BaseMs is the time of the first record of each topic, Unix milliseconds. Recent enough for
// retention to leave the records alone.
var BaseMs = time.Now().Add(-time.Hour).UnixMilli()

// Scenario is one thing that is checked.
type Scenario struct {
	Name string
	Run  func(address string)
}

// Main runs the scenarios against the broker at the address that the command line names. The second
// argument is the file that asks for a crash; a third one names the only scenarios that are run.
func Main(scenarios []Scenario) {
	for _, scenario := range scenarios {
		if len(os.Args) > 3 && !strings.Contains(scenario.Name, os.Args[3]) {
			continue
		}
		started := time.Now()
		scenario.Run(os.Args[1])
		fmt.Printf("%s: %.1f s\n", scenario.Name, time.Since(started).Seconds())
	}
}

// Crash has the broker killed and started again, and returns at once.
func Crash() {
	NoError("asking for a crash", os.WriteFile(os.Args[2], nil, 0o600))
}

// Crashed returns once the broker that follows a crash is ready.
func Crashed() {
	Until("the broker's return", func() bool {
		_, err := os.Stat(os.Args[2])
		return errors.Is(err, os.ErrNotExist)
	})
}

// That ends the program with the message unless the condition holds.
func That(holds bool, format string, arguments ...any) {
	if !holds {
		panic(fmt.Sprintf(format, arguments...))
	}
}

// Equal expects two values to be the same, all through.
func Equal(what string, expected, found any) {
	That(reflect.DeepEqual(expected, found), "%s: expected %v, found %v", what, expected, found)
}

// NoError expects success.
func NoError(what string, err error) {
	That(err == nil, "%s: %v", what, err)
}

// ErrorIs expects one error and no other.
func ErrorIs(what string, expected, found error) {
	That(errors.Is(found, expected), "%s: expected %v, found %v", what, expected, found)
}

// Until waits for a condition, which is asked again and again.
func Until(what string, holds func() bool) {
	deadline := time.Now().Add(Patience)
	for !holds() {
		That(time.Now().Before(deadline), "waited in vain for %s", what)
		time.Sleep(20 * time.Millisecond)
	}
}
