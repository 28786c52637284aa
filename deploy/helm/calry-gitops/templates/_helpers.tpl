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

{{- /* The configuration file; empty where nothing is set by it. */}}
{{- define "calry-gitops.config" -}}
{{- $config := deepCopy .Values.config }}
{{- $git := eq .Values.source "git-sync" }}
{{- $workspaces := list }}
{{- range .Values.workspaces }}
{{- $apiKey := .apiKey | default dict }}
{{- $definitions := printf "/definitions/%s" .name }}
{{- if $git }}
{{- $definitions = printf "/git/current/%s" (.directory | default .name) }}
{{- end }}
{{- $own := dict "name" .name "definitions" $definitions }}
{{- $_ := set $own "apiKeyFile" (printf "/run/calry/%s/api-key/%s" .name ($apiKey.key | default "api-key")) }}
{{- $_ := set $own "secretsDir" (printf "/run/calry/%s/secrets" .name) }}
{{- $workspaces = append $workspaces (merge $own (.config | default dict)) }}
{{- end }}
{{- if $workspaces }}
{{- $_ := set $config "workspaces" $workspaces }}
{{- end }}
{{- if $config }}
{{- toYaml $config }}
{{- end }}
{{- end }}

{{- /* The settings of the daemon, as variables. What is its own default is left out. */}}
{{- define "calry-gitops.env" -}}
{{- if not (or .Values.workspaces .Values.config.workspaces) }}
- name: CALRY_DEFINITIONS
  value: {{ if eq .Values.source "git-sync" }}/git/current{{ with .Values.git.directory }}/{{ . }}{{ end }}{{ else }}/definitions{{ end }}
- name: CALRY_API_KEY_FILE
  value: /run/calry/api-key/{{ .Values.calry.apiKey.key }}
- name: CALRY_SECRETS_DIR
  value: /run/calry/secrets
{{- end }}
{{- if include "calry-gitops.config" . }}
- name: CALRY_CONFIG
  value: /etc/calry-gitops/calry-gitops.yaml
{{- end }}
- name: CALRY_STATE_DIR
  value: /var/lib/calry-gitops
- name: CALRY_LISTEN
  value: "[::]:8080"
- name: CALRY_LOG_FORMAT
  value: json
{{- with .Values.mode }}
- name: CALRY_MODE
  value: {{ . }}
{{- end }}
{{- with .Values.interval }}
- name: CALRY_INTERVAL
  value: {{ . }}
{{- end }}
{{- with .Values.calry.apiUrl }}
- name: CALRY_API_URL
  value: {{ . | quote }}
{{- end }}
{{- if not (kindIs "invalid" .Values.maxChanges) }}
- name: CALRY_MAX_CHANGES
  value: {{ int .Values.maxChanges | quote }}
{{- end }}
{{- with .Values.leaderElection }}
{{- if .enabled }}
- name: CALRY_LEADER_ELECTION
  value: "true"
- name: CALRY_LEASE_NAME
  value: {{ .leaseName | default (include "calry-gitops.fullname" $) }}
{{- with .leaseDuration }}
- name: CALRY_LEASE_DURATION
  value: {{ . }}
{{- end }}
{{- with .renewDeadline }}
- name: CALRY_LEASE_RENEW_DEADLINE
  value: {{ . }}
{{- end }}
{{- with .retryPeriod }}
- name: CALRY_LEASE_RETRY_PERIOD
  value: {{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- if gt (int .Values.shards) 1 }}
- name: CALRY_SHARDS
  value: {{ int .Values.shards | quote }}
{{- end }}
{{- if .Values.events.enabled }}
- name: CALRY_KUBERNETES_EVENTS
  value: "true"
{{- end }}
{{- if .Values.allowedSigners.configMapName }}
- name: CALRY_ALLOWED_SIGNERS
  value: /run/calry/allowed-signers/allowed_signers
{{- end }}
{{- if include "calry-gitops.asks" . }}
{{- range $name, $field := dict "POD_NAME" "metadata.name" "POD_NAMESPACE" "metadata.namespace" "POD_UID" "metadata.uid" }}
- name: {{ $name }}
  valueFrom:
    fieldRef:
      fieldPath: {{ $field }}
{{- end }}
{{- end }}
{{- end }}
