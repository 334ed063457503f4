{{- define "portcullis.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "portcullis.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "portcullis.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "portcullis.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "portcullis.selector" -}}
app.kubernetes.io/name: {{ include "portcullis.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "portcullis.labels" -}}
{{ include "portcullis.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* What cannot be said by the schema, in the words of whoever has to change it. */}}
{{- define "portcullis.check" -}}
{{- $v := .Values -}}
{{- if not (or $v.edge.enabled $v.gate.enabled $v.control.enabled) -}}
{{- fail "nothing is enabled: set edge.enabled, gate.enabled or control.enabled to true" -}}
{{- end -}}
{{- if $v.edge.enabled -}}
{{- if not (or $v.edge.tokenSecret.name (hasKey $v.edge.config "tokens") (hasKey $v.edge.config "token_files")) -}}
{{- fail "an edge needs a token: name the Secret that holds it in edge.tokenSecret.name (kubectl create secret generic NAME --from-file=token)" -}}
{{- end -}}
{{- if and $v.edge.tcpPorts (hasKey $v.edge.config "allow_ports") -}}
{{- fail "edge.tcpPorts and edge.config.allow_ports say the same: keep edge.tcpPorts, which are the Service's ports too" -}}
{{- end -}}
{{- end -}}
{{- if and $v.gate.enabled $v.networkPolicy.enabled (not $v.gate.from) -}}
{{- fail "say in gate.from which pods are the proxies in front of the gate: whoever else reaches it could put any address on a list. Only where something else keeps others away, set networkPolicy.enabled to false" -}}
{{- end -}}
{{- if and $v.podMonitor.enabled $v.networkPolicy.enabled (not $v.podMonitor.from) -}}
{{- fail "say in podMonitor.from where Prometheus runs, or nobody can fetch the metrics" -}}
{{- end -}}
{{- if hasKey $v.gate.config "nftables" -}}
{{- fail "gate.config.nftables guards the ports of a machine, and a pod has none: run such a gate on the machine itself" -}}
{{- end -}}
{{- if and $v.control.enabled (not $v.control.config.server_url) -}}
{{- fail "say in control.config.server_url how clients reach the server, such as https://mesh.example.com" -}}
{{- end -}}
{{- range $list := $v.gate.traefikMiddlewares -}}
{{- if not (hasKey $v.lists $list) -}}
{{- fail (printf "gate.traefikMiddlewares names the list %q, and lists has none of that name" $list) -}}
{{- end -}}
{{- end -}}
{{- range $name := keys $v.files -}}
{{- if eq $name "portcullis.toml" -}}
{{- fail "files cannot have a portcullis.toml: that is the configuration, which the chart writes" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A value as TOML, on one line. JSON's strings are TOML's; whole numbers come from YAML as floats. */}}
{{- define "portcullis.toml.value" -}}
{{- if kindIs "map" . -}}
{ {{ $first := true }}{{ range $k, $v := . }}{{ if not (kindIs "invalid" $v) }}{{ if not $first }}, {{ end }}{{ $first = false }}{{ include "portcullis.toml.key" $k }} = {{ include "portcullis.toml.value" $v }}{{ end }}{{ end }} }
{{- else if kindIs "slice" . -}}
[{{ range $i, $v := . }}{{ if $i }}, {{ end }}{{ include "portcullis.toml.value" $v }}{{ end }}]
{{- else if kindIs "float64" . -}}
{{ if eq (floor .) . }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- else if kindIs "string" . -}}
{{ toRawJson . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}

{{- define "portcullis.toml.key" -}}
{{ if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toRawJson . }}{{ end }}
{{- end -}}

{{/* A whole document: what is plain first, then a table for each map. */}}
{{- define "portcullis.toml" -}}
{{- range $k, $v := . }}{{ if not (or (kindIs "map" $v) (kindIs "invalid" $v)) }}
{{ include "portcullis.toml.key" $k }} = {{ include "portcullis.toml.value" $v }}
{{- end }}{{ end }}
{{- range $table, $map := . }}{{ if kindIs "map" $map }}

[{{ include "portcullis.toml.key" $table }}]
{{- range $k, $v := $map }}{{ if not (kindIs "invalid" $v) }}
{{ include "portcullis.toml.key" $k }} = {{ include "portcullis.toml.value" $v }}
{{- end }}{{ end }}
{{- end }}{{ end }}
{{- end -}}

{{/* The program's file as a map; the chart's own keys go before the user's where the chart depends on them. */}}
{{- define "portcullis.config" -}}
{{- include "portcullis.check" . -}}
{{- $v := .Values -}}
{{- $c := dict -}}
{{- if $v.edge.enabled -}}
{{- $c = deepCopy $v.edge.config -}}
{{- if $v.edge.tokenSecret.name -}}
{{- $_ := set $c "token_file" "/run/portcullis/edge/token" -}}
{{- end -}}
{{- if $v.edge.tlsSecret -}}
{{- $_ := set $c "tls_cert" "/run/portcullis/edge/tls.crt" -}}
{{- $_ := set $c "tls_key" "/run/portcullis/edge/tls.key" -}}
{{- end -}}
{{- if $v.edge.tcpPorts -}}
{{- $ports := list -}}
{{- range $v.edge.tcpPorts }}{{ $ports = append $ports (toString (int .)) }}{{ end -}}
{{- $_ := set $c "allow_ports" (join "," $ports) -}}
{{- end -}}
{{- else -}}
{{- $_ := set $c "http" false -}}
{{- end -}}
{{- $_ := set $c "data_dir" "/var/lib/portcullis" -}}
{{- $_ := set $c "log_format" $v.logFormat -}}
{{- if $v.lists -}}
{{- $_ := set $c "lists" $v.lists -}}
{{- end -}}
{{- if $v.gate.enabled -}}
{{- $_ := set $c "gate" (merge (deepCopy $v.gate.config) (dict "listen" "0.0.0.0:7070")) -}}
{{- end -}}
{{- if $v.control.enabled -}}
{{- $ours := dict "listen" (list "0.0.0.0:8080") "stun" (ternary "off" "0.0.0.0:3478" $v.control.ingress.enabled) -}}
{{- if $v.podMonitor.enabled -}}
{{- $_ := set $ours "metrics" "0.0.0.0:9090" -}}
{{- end -}}
{{- $control := merge (deepCopy $v.control.config) $ours -}}
{{- if $v.control.tlsSecret -}}
{{- $_ := set $control "tls_cert" "/run/portcullis/control/tls.crt" -}}
{{- $_ := set $control "tls_key" "/run/portcullis/control/tls.key" -}}
{{- end -}}
{{- $_ := set $c "control" $control -}}
{{- end -}}
{{- toJson $c -}}
{{- end -}}

{{/* The port of HOST:PORT; 0 if there is none, as in "none", "off" or a socket. */}}
{{- define "portcullis.port" -}}
{{- regexFind "[0-9]+$" (ternary "0" (toString .) (hasPrefix "unix:" (toString .))) | default "0" -}}
{{- end -}}

{{/* The ports of each part: [{part, name, port, protocol}], from the same map as the file. */}}
{{- define "portcullis.ports" -}}
{{- $v := .Values -}}
{{- $c := include "portcullis.config" . | fromJson -}}
{{- $all := list -}}
{{- if $v.edge.enabled -}}
{{- if ne (toString (dig "http" true $c)) "false" -}}
{{- $all = append $all (dict "part" "edge" "name" "http" "port" (int (dig "port" 8000 $c)) "protocol" "TCP") -}}
{{- end -}}
{{- $all = append $all (dict "part" "edge" "name" "control" "port" (int (dig "control_port" 8123 $c)) "protocol" "TCP") -}}
{{- range $v.edge.tcpPorts -}}
{{- $all = append $all (dict "part" "edge" "name" (printf "tcp-%d" (int .)) "port" (int .) "protocol" "TCP") -}}
{{- end -}}
{{- end -}}
{{- if $v.gate.enabled -}}
{{- $gate := list (list "check" $c.gate.listen) (list "share" (default "none" $c.gate.share_listen)) -}}
{{- range $i, $m := default (list) $c.gate.mirror }}{{ $gate = append $gate (list (printf "mirror-%d" $i) $m.listen) }}{{ end -}}
{{- range $i, $m := default (list) $c.gate.learn }}{{ $gate = append $gate (list (printf "learn-%d" $i) (default "none" $m.listen)) }}{{ end -}}
{{- range $gate -}}
{{- $port := include "portcullis.port" (index . 1) | int -}}
{{- if $port -}}
{{- $all = append $all (dict "part" "gate" "name" (index . 0) "port" $port "protocol" "TCP") -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $v.control.enabled -}}
{{- $all = append $all (dict "part" "control" "name" "mesh" "port" (include "portcullis.port" (first $c.control.listen) | int) "protocol" "TCP") -}}
{{- $stun := include "portcullis.port" $c.control.stun | int -}}
{{- if $stun -}}
{{- $all = append $all (dict "part" "control" "name" "stun" "port" $stun "protocol" "UDP") -}}
{{- end -}}
{{- $metrics := include "portcullis.port" (default "none" $c.control.metrics) | int -}}
{{- if $metrics -}}
{{- $all = append $all (dict "part" "metrics" "name" "metrics" "port" $metrics "protocol" "TCP") -}}
{{- end -}}
{{- end -}}
{{- dict "all" $all | toJson -}}
{{- end -}}

{{/* What says that the process is there. Not the gate's /healthz: it turns red when the disk is full, while the gate still
answers every proxy, and taking it away would shut everybody out. */}}
{{- define "portcullis.probe" -}}
{{- $v := .Values -}}
{{- if $v.control.enabled -}}
httpGet: { path: /health, port: mesh, scheme: {{ ternary "HTTPS" "HTTP" (ne $v.control.tlsSecret "") }} }
{{- else if $v.gate.enabled -}}
{{- $first := first ((include "portcullis.ports" . | fromJson).all) -}}
tcpSocket: { port: {{ ternary "control" $first.name $v.edge.enabled }} }
{{- else -}}
tcpSocket: { port: control }
{{- end -}}
{{- end -}}

{{/* Sources of the projected volume of secrets. */}}
{{- define "portcullis.secrets" -}}
{{- $v := .Values -}}
{{- $sources := list -}}
{{- if $v.edge.enabled -}}
{{- with $v.edge.tokenSecret.name -}}
{{- $sources = append $sources (dict "secret" (dict "name" . "items" (list (dict "key" $v.edge.tokenSecret.key "path" "edge/token")))) -}}
{{- end -}}
{{- with $v.edge.tlsSecret -}}
{{- $sources = append $sources (dict "secret" (dict "name" . "items" (list (dict "key" "tls.crt" "path" "edge/tls.crt") (dict "key" "tls.key" "path" "edge/tls.key")))) -}}
{{- end -}}
{{- end -}}
{{- if $v.control.enabled -}}
{{- with $v.control.tlsSecret -}}
{{- $sources = append $sources (dict "secret" (dict "name" . "items" (list (dict "key" "tls.crt" "path" "control/tls.crt") (dict "key" "tls.key" "path" "control/tls.key")))) -}}
{{- end -}}
{{- end -}}
{{- range $file, $from := $v.secretFiles -}}
{{- $sources = append $sources (dict "secret" (dict "name" $from.secret "items" (list (dict "key" $from.key "path" (printf "files/%s" $file))))) -}}
{{- end -}}
{{- if $sources }}{{ toYaml $sources }}{{ end -}}
{{- end -}}

{{- define "portcullis.urlPort" -}}
{{- $u := urlParse . -}}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $u.host) | default (ternary "443" "80" (eq $u.scheme "https")) -}}
{{- end -}}
