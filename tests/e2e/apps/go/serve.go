package main

import (
	"encoding/json"
	"net/http"
	"os"

	"github.com/coder/websocket"
)

// serve answers every text with the text, the version and the pod.
func serve() error {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	pod, _ := os.Hostname()
	answer := func(text string) []byte {
		body, _ := json.Marshal(map[string]string{"text": text, "version": os.Getenv("VERSION"), "pod": pod})
		return body
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {})
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		socket, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			return
		}
		defer socket.CloseNow()
		if socket.Write(r.Context(), websocket.MessageText, answer("")) != nil {
			return
		}
		for {
			kind, text, err := socket.Read(r.Context())
			if err != nil {
				return
			}
			if socket.Write(r.Context(), kind, answer(string(text))) != nil {
				return
			}
		}
	})
	return http.ListenAndServe(":"+port, mux)
}
