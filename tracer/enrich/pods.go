package enrich

import (
	"os"
	"strings"
	"sync"
)

// Pod is what the kubelet's own files tell of a container of a Kubernetes pod; zero:
// nothing.
type Pod struct {
	Namespace, Name string
	Container       string // its name within the pod
}

// Pods looks containers up in the links that the kubelet keeps for collectors of logs,
// POD_NAMESPACE_CONTAINER-ID.log. It is safe for concurrent use.
type Pods struct {
	dir   string
	mu    sync.Mutex
	known *lru[string, Pod]
}

// NewPods is one for a directory, which is "/var/log/containers" where there is a kubelet.
func NewPods(dir string) *Pods { return &Pods{dir: dir, known: newLRU[string, Pod](1<<10, nil)} }

// Of is the pod of a container, which has a Pod by its cgroup.
func (p *Pods) Of(c Container) Pod {
	if p == nil || c.Pod == "" || c.ID == "" {
		return Pod{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if pod, ok := p.known.get(c.ID); ok {
		return pod
	}
	f, err := os.Open(p.dir)
	if err != nil {
		return Pod{}
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return Pod{}
	}
	for _, name := range names {
		rest, ok := strings.CutSuffix(name, "-"+c.ID+".log")
		parts := strings.Split(rest, "_") // none of the names has one
		if ok && len(parts) == 3 {
			pod := Pod{Name: parts[0], Namespace: parts[1], Container: parts[2]}
			p.known.put(c.ID, pod)
			return pod
		}
	}
	return Pod{} // it may come yet
}
