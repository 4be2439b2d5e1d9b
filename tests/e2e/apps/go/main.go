// An echo on coder/websocket, server and client in one program. It knows nothing of releases.
package main

import (
	"log"
	"os"
)

func main() {
	var err error
	switch {
	case len(os.Args) > 1 && os.Args[1] == "hold":
		err = hold(os.Args[2:])
	default:
		err = serve()
	}
	if err != nil {
		log.Fatal(err)
	}
}
