package listen

import (
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long files are left alone after a change, so that certificate and key are both written when they are
// read. It is not prolonged by further changes: in a busy directory there is always one more.
const settle = 300 * time.Millisecond

// watchCertificates reloads when the files change. Directories are watched and not the files, because files are
// replaced by renaming, and in Kubernetes by swapping a symbolic link beside them. Without a watch, on a system that
// has run out of them, Reload still works, so it is no reason not to start.
func (l *Listener) watchCertificates() {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		l.cfg.Logger.Warn("certificate is not watched for changes", "error", err)
		return
	}
	for _, file := range []string{l.cfg.Cert, l.cfg.Key, l.cfg.ClientCA} {
		if file == "" {
			continue
		}
		// Adding a directory again is harmless.
		if err := watcher.Add(filepath.Dir(file)); err != nil {
			l.cfg.Logger.Warn("certificate is not watched for changes", "file", file, "error", err)
		}
	}
	l.running.Go(func() {
		defer watcher.Close()
		l.followCertificates(watcher)
	})
}

func (l *Listener) followCertificates(watcher *fsnotify.Watcher) {
	timer := time.NewTimer(settle)
	timer.Stop()
	waiting := false
	fault := ""
	for {
		select {
		case <-watcher.Events:
			if !waiting {
				waiting = true
				timer.Reset(settle)
			}
		case err := <-watcher.Errors:
			l.cfg.Logger.Warn("watching the certificate failed", "error", err)
		case <-timer.C:
			waiting = false
			fault = l.reloadChanged(fault)
		case <-l.closing:
			timer.Stop()
			return
		}
	}
}

// reloadChanged reloads if the files differ from those in use. It returns what is wrong with them, and logs it once:
// unrelated changes in the directory come by here, too.
func (l *Listener) reloadChanged(lastFault string) string {
	changed, err := l.certs.reload()
	if err != nil {
		if err.Error() != lastFault {
			l.cfg.Logger.Error("changed certificate cannot be used, the previous one stays in use", "error", err)
		}
		return err.Error()
	}
	if changed {
		l.logCertificate("certificate reloaded")
	}
	return ""
}
