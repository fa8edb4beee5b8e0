package enrich

import (
	"os"
	"strings"
	"sync"
	"time"
)

// missed is how long a container that has no link is not looked for again.
const missed = 10 * time.Second

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
	now   func() time.Time
	mu    sync.Mutex
	known *lru[string, Pod]
	not   *lru[string, time.Time] // when a container was looked for in vain
}

// NewPods is one for a directory, which is "/var/log/containers" where there is a kubelet.
func NewPods(dir string) *Pods {
	return &Pods{dir: dir, now: time.Now, known: newLRU[string, Pod](1<<10, nil), not: newLRU[string, time.Time](1<<10, nil)}
}

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
	// The whole directory is read, which is too much for each event of a container that
	// has no link.
	now := p.now()
	if at, ok := p.not.get(c.ID); ok && now.Sub(at) < missed {
		return Pod{}
	}
	pod, ok := p.find(c.ID)
	if !ok {
		p.not.put(c.ID, now) // it may come yet
		return Pod{}
	}
	p.not.remove(c.ID)
	p.known.put(c.ID, pod)
	return pod
}

// find looks a container up in the directory.
func (p *Pods) find(id string) (Pod, bool) {
	f, err := os.Open(p.dir)
	if err != nil {
		return Pod{}, false
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return Pod{}, false
	}
	for _, name := range names {
		rest, ok := strings.CutSuffix(name, "-"+id+".log")
		parts := strings.Split(rest, "_") // none of the names has one
		if ok && len(parts) == 3 {
			return Pod{Name: parts[0], Namespace: parts[1], Container: parts[2]}, true
		}
	}
	return Pod{}, false
}
