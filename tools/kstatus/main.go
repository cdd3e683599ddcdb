// What tools that wait say of objects: a JSON list of objects on stdin, a JSON list of judgements on stdout.
//
// Upstream's kstatus, the fork of it that Flux and Helm 4 have, and Argo CD's health check: the Lua script that is the
// argument, run as Argo CD runs one (its libraries are base, table and package).
package main

import (
	"encoding/json"
	"fmt"
	"os"

	flux "github.com/fluxcd/cli-utils/pkg/kstatus/status"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	upstream "sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type judgement struct {
	Kstatus string `json:"kstatus"`
	Flux    string `json:"flux"`
	Message string `json:"message"`
	Argo    string `json:"argo"`
	Said    string `json:"said"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	script, err := os.ReadFile(os.Args[1])
	if err != nil {
		return err
	}
	var items []json.RawMessage
	if err := json.NewDecoder(os.Stdin).Decode(&items); err != nil {
		return err
	}
	judged := []judgement{}
	for _, item := range items {
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(item); err != nil {
			return err
		}
		one, err := judge(object, string(script))
		if err != nil {
			return err
		}
		judged = append(judged, one)
	}
	return json.NewEncoder(os.Stdout).Encode(judged)
}

func judge(object *unstructured.Unstructured, script string) (judgement, error) {
	first, err := upstream.Compute(object)
	if err != nil {
		return judgement{}, err
	}
	second, err := flux.Compute(object)
	if err != nil {
		return judgement{}, err
	}
	verdict, said, err := health(object, script)
	return judgement{first.Status.String(), second.Status.String(), second.Message, verdict, said}, err
}

func health(object *unstructured.Unstructured, script string) (string, string, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage,
		lua.BaseLibName: lua.OpenBase,
		lua.TabLibName:  lua.OpenTable,
	} {
		call := lua.P{Fn: state.NewFunction(open), NRet: 0, Protect: true}
		if err := state.CallByParam(call, lua.LString(name)); err != nil {
			return "", "", err
		}
	}
	state.SetGlobal("obj", value(state, object.Object))
	if err := state.DoString(script); err != nil {
		return "", "", err
	}
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return "", "", fmt.Errorf("the script returned %s", state.Get(-1).Type())
	}
	return lua.LVAsString(table.RawGetString("status")), lua.LVAsString(table.RawGetString("message")), nil
}

func value(state *lua.LState, found any) lua.LValue {
	switch found := found.(type) {
	case bool:
		return lua.LBool(found)
	case string:
		return lua.LString(found)
	case int64:
		return lua.LNumber(found)
	case float64:
		return lua.LNumber(found)
	case []any:
		list := state.CreateTable(len(found), 0)
		for _, each := range found {
			list.Append(value(state, each))
		}
		return list
	case map[string]any:
		table := state.CreateTable(0, len(found))
		for key, each := range found {
			table.RawSetString(key, value(state, each))
		}
		return table
	}
	return lua.LNil
}
