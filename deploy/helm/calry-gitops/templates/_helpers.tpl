{{- define "calry-gitops.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "calry-gitops.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "calry-gitops.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "calry-gitops.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "calry-gitops.selector" -}}
app.kubernetes.io/name: {{ include "calry-gitops.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "calry-gitops.labels" -}}
{{ include "calry-gitops.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "calry-gitops.metadata" -}}
name: {{ include "calry-gitops.fullname" . }}
labels:
  {{- include "calry-gitops.labels" . | nindent 2 }}
{{- end }}

{{- define "calry-gitops.image" -}}
{{ .repository }}{{ with .digest }}@{{ . }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}

{{- define "calry-gitops.leases" -}}
{{- $name := .Values.leaderElection.leaseName | default (include "calry-gitops.fullname" .) }}
{{- if gt (int .Values.shards) 1 }}
{{- range $shard := until (int .Values.shards) }}
- {{ $name }}-{{ $shard }}
{{- end }}
{{- else }}
- {{ $name }}
{{- end }}
{{- end }}

{{- /* Not empty where the daemon asks something of the API server. */}}
{{- define "calry-gitops.asks" -}}
{{- if or .Values.leaderElection.enabled .Values.events.enabled }}yes{{ end }}
{{- end }}

{{- define "calry-gitops.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop:
    - ALL
{{- end }}
